//! A table as the terminal shows it.

use std::fmt;

use comfy_table::{CellAlignment, Table as Grid, presets};

/// Rows of figures, each with a name before them.
pub(crate) struct Table {
    pub(crate) title: String,
    /// What is said of all figures; mostly empty, as is what stands below them.
    pub(crate) note: String,
    /// The names of the columns, that of the rows' names first.
    pub(crate) columns: Vec<String>,
    /// Those that hold words, and so begin at the left.
    pub(crate) words: Vec<usize>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) below: String,
}

impl Table {
    /// Without rows yet.
    pub(crate) fn new(title: impl Into<String>, note: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().copied().map(String::from).collect();
        let (title, note) = (title.into(), note.into());
        Self { title, note, columns, words: vec![0], rows: Vec::new(), below: String::new() }
    }

    pub(crate) fn row(&mut self, name: &str, figures: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(name.to_owned()).chain(figures).collect());
    }

    /// Itself, if there is anything in it.
    pub(crate) fn filled(self) -> Option<Self> {
        (!self.rows.is_empty()).then_some(self)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.title)?;
        if !self.note.is_empty() {
            writeln!(f, "({})", self.note)?;
        }
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).set_header(&self.columns).add_rows(&self.rows);
        for (at, column) in grid.column_iter_mut().enumerate() {
            column.set_padding((2, 0));
            if !self.words.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "\n{}", grid.trim_fmt())?;
        if !self.below.is_empty() {
            writeln!(f, "\n  {}", self.below)?;
        }
        Ok(())
    }
}
