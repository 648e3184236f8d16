//! Texts of a database that is not UTF-8. Nothing is converted here: Postgres converts what it sends and receives, and
//! names are compared as they are.
//!
//! In Rust such a text has a character for each byte, U+0000 to U+00FF: so any of them is a `String`, and comes out as
//! it came in. What leaves goes through [`to_server`].

use std::borrow::Cow;
use std::ffi::CString;
use std::ops::Deref;
use std::sync::atomic::{AtomicI32, Ordering};

use aimq_core::memory::OutOfMemory;
use aimq_core::payload;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum, UnboxDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

/// A text or name of SQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

/// `PG_SQL_ASCII` and `PG_UTF8` (mb/pg_wchar.h).
const SQL_ASCII: i32 = 0;
const UTF8: i32 = 6;

fn encoding() -> i32 {
    static KNOWN: AtomicI32 = AtomicI32::new(-1);
    match KNOWN.load(Ordering::Relaxed) {
        -1 => {
            // SAFETY: of the database that this process is connected to, and stays so.
            let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
            KNOWN.store(encoding, Ordering::Relaxed);
            encoding
        }
        encoding => encoding,
    }
}

pub(crate) fn is_utf8() -> bool {
    encoding() == UTF8
}

/// Whether a client can know what a text says: in `SQL_ASCII`, only if it is UTF-8.
pub(crate) fn is_known(text: &str) -> bool {
    encoding() != SQL_ASCII || std::str::from_utf8(&to_server(text)).is_ok()
}

/// To be called before payloads are made.
pub(crate) fn prepare() {
    payload::set_wide(!matches!(encoding(), UTF8 | SQL_ASCII));
}

/// A payload as it is sent.
pub(crate) fn payload(text: String) -> Result<Vec<u8>, OutOfMemory> {
    if matches!(encoding(), UTF8 | SQL_ASCII) {
        return Ok(text.into_bytes());
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(text.len() + 1)?;
    bytes.extend(text.chars().map(narrow));
    Ok(bytes)
}

fn narrow(wide: char) -> u8 {
    u8::try_from(u32::from(wide)).unwrap_or(b'?')
}

pub(crate) fn from_server(bytes: &[u8]) -> String {
    match is_utf8() {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => bytes.iter().copied().map(char::from).collect(),
    }
}

pub(crate) fn to_server(text: &str) -> Cow<'_, [u8]> {
    if is_utf8() || text.is_ascii() {
        return Cow::Borrowed(text.as_bytes());
    }
    Cow::Owned(text.chars().map(narrow).collect())
}

/// The same; SQL has no NUL.
pub(crate) fn to_c(text: &str) -> CString {
    CString::new(to_server(text)).unwrap_or_default()
}

/// How many bytes it has in the server.
pub(crate) fn bytes(text: &str) -> usize {
    to_server(text).len()
}

/// A literal in SQL. Postgres' own function takes only what is UTF-8, as pgrx calls it.
/// Whether a name has to stand in quotes where SQL takes an identifier. A few words that may stand without quotes
/// are reported as needing them, as Postgres itself does whenever it quotes.
pub(crate) fn needs_quotes(name: &str) -> bool {
    let is_start = |it: char| it.is_ascii_lowercase() || it == '_' || !it.is_ascii();
    let is_plain = name.starts_with(is_start)
        && name.chars().all(|it| is_start(it) || it.is_ascii_digit() || it == '$');
    // Of plain names in ASCII it quotes the reserved words, unless it is to quote all.
    // SAFETY: a plain variable of this backend.
    let quotes_all = unsafe { pg_sys::quote_all_identifiers };
    let may_be_word = name.chars().all(|it| it.is_ascii_lowercase() || it == '_');
    !is_plain || may_be_word && !quotes_all && pgrx::spi::quote_identifier(name) != name
}

pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

impl Text {
    pub(crate) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        oid: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: as demanded of the caller; a text is bytes with a length, as a bytea is.
        let bytes = unsafe { <&[u8]>::from_polymorphic_datum(datum, is_null, oid) };
        bytes.map(|bytes| Self(from_server(bytes)))
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        to_server(&self.0).as_ref().into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }

    fn is_compatible_with(other: pg_sys::Oid) -> bool {
        String::is_compatible_with(other)
    }
}

// SAFETY: as pgrx has it for String.
unsafe impl UnboxDatum for Text {
    type As<'src> = Self;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> Self
    where
        Self: 'src,
    {
        // SAFETY: as demanded of the caller.
        let bytes = unsafe { <&[u8]>::unbox(datum) };
        Self(from_server(bytes))
    }
}

// SAFETY: as above.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as demanded of the caller.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("a function that is strict")
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as demanded of the caller.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: as above.
unsafe impl BoxRet for Text {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: it is returned.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: a text.
unsafe impl SqlTranslatable for Text {
    const TYPE_IDENT: &'static str = <String as SqlTranslatable>::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        <String as SqlTranslatable>::ARGUMENT_SQL;
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = <String as SqlTranslatable>::RETURN_SQL;
}
