//! What one rolled-back transaction can show: the control plane's answers and errors. What needs a
//! commit is in `tests/client`.

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn hello() {
        assert_eq!(Spi::get_one::<bool>("SELECT true").unwrap(), Some(true));
    }
}
