//! Tables: their columns, how rows are ordered, filtered and selected. One list of columns serves the screen, the
//! order, the filter and the export.

use std::{borrow::Cow, cmp::Ordering};

use super::filter::Filter;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Text,
    Count,
    Bytes,
    /// Bytes a second.
    Rate,
    Micros,
    /// Milliseconds since 1970, shown as an age.
    Age,
    /// The same, shown as a time of day.
    Moment,
    /// The last seconds, drawn.
    Past,
}

/// What a row has in a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(u64),
    Past(Vec<u64>),
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: &'a str) -> Self {
        if text.is_empty() {
            Self::Missing
        } else {
            Self::Text(text.into())
        }
    }

    pub(crate) fn number(number: Option<u64>) -> Self {
        number.map_or(Self::Missing, Self::Number)
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.cmp(other),
            (Self::Past(one), Self::Past(other)) => {
                one.iter().sum::<u64>().cmp(&other.iter().sum())
            }
            _ => Ordering::Equal,
        }
    }
}

/// A column.
pub(crate) struct Column<R> {
    pub(crate) title: &'static str,
    /// What the filter calls it.
    pub(crate) key: &'static str,
    pub(crate) unit: Unit,
    /// Cells at least; text may get more.
    pub(crate) width: u16,
    /// Columns of high rank go first where there is no room.
    pub(crate) rank: u8,
    pub(crate) value: for<'a> fn(&'a R) -> Value<'a>,
}

/// What a table has rows of.
pub(crate) trait Record: Sized + 'static {
    const COLUMNS: &'static [Column<Self>];

    /// What tells a row from all others, also when it changes.
    fn id(&self) -> Cow<'_, str>;
}

/// How a table is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// The column that rows are ordered by.
    pub(crate) sort: usize,
    pub(crate) reverse: bool,
    selected: Option<String>,
    pub(crate) filter: Filter,
}

impl Table {
    pub(crate) fn sorted_by(sort: usize, reverse: bool) -> Self {
        Self {
            sort,
            reverse,
            ..Self::default()
        }
    }

    /// The rows that the filter lets through, in order.
    pub(crate) fn rows<'a, R: Record>(
        &self,
        rows: impl Iterator<Item = &'a R>,
        now_ms: u64,
    ) -> Vec<&'a R> {
        let column = self.column::<R>();
        let shown = rows.filter(|row| self.filter.lets_through(*row, now_ms));
        let mut keyed: Vec<_> = shown.map(|row| ((column.value)(row), row)).collect();
        keyed.sort_by(|(one, _), (other, _)| self.order(column, one, other));
        keyed.into_iter().map(|(_, row)| row).collect()
    }

    /// The first of [`rows`](Self::rows), without ordering the others.
    pub(crate) fn first<'a, R: Record>(
        &self,
        rows: impl Iterator<Item = &'a R>,
        now_ms: u64,
    ) -> Option<&'a R> {
        let column = self.column::<R>();
        let shown = rows.filter(|row| self.filter.lets_through(*row, now_ms));
        let keyed = shown.map(|row| ((column.value)(row), row));
        let first = keyed.min_by(|(one, _), (other, _)| self.order(column, one, other));
        first.map(|(_, row)| row)
    }

    /// What was selected last; it may be gone.
    pub(crate) fn selected(&self) -> Option<&str> {
        self.selected.as_deref()
    }

    fn column<R: Record>(&self) -> &'static Column<R> {
        &R::COLUMNS[self.sort.min(R::COLUMNS.len() - 1)]
    }

    /// Rows that have nothing in the column come last, whichever way round.
    fn order<R>(&self, column: &Column<R>, one: &Value<'_>, other: &Value<'_>) -> Ordering {
        // The youngest began last.
        let reverse = self.reverse != (column.unit == Unit::Age);
        let missing = |value: &Value<'_>| *value == Value::Missing;
        missing(one).cmp(&missing(other)).then_with(|| {
            let order = one.order(other);
            if reverse { order.reverse() } else { order }
        })
    }

    /// Where the selected row stands; the first if it is gone.
    pub(crate) fn position<R: Record>(&self, rows: &[&R]) -> usize {
        let selected = self.selected.as_deref();
        let found = selected.and_then(|id| rows.iter().position(|row| row.id() == id));
        found.unwrap_or(0)
    }

    pub(crate) fn select<R: Record>(&mut self, rows: &[&R], position: usize) {
        let last = rows.len().saturating_sub(1);
        let row = rows.get(position.min(last));
        self.selected = row.map(|row| row.id().into_owned());
    }

    pub(crate) fn sort_by(&mut self, column: usize) {
        self.reverse = self.sort == column && !self.reverse;
        self.sort = column;
    }

    /// The column `steps` further on, round and round.
    pub(crate) fn sort_after(&mut self, steps: usize, columns: usize) {
        self.sort = (self.sort + steps) % columns;
        self.reverse = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, Option<u64>);

    impl Record for Thing {
        const COLUMNS: &'static [Column<Self>] = &[
            Column {
                title: "NAME",
                key: "name",
                unit: Unit::Text,
                width: 4,
                rank: 0,
                value: |thing| Value::text(thing.0),
            },
            Column {
                title: "SIZE",
                key: "size",
                unit: Unit::Bytes,
                width: 4,
                rank: 0,
                value: |thing| Value::number(thing.1),
            },
        ];

        fn id(&self) -> Cow<'_, str> {
            self.0.into()
        }
    }

    const THINGS: [Thing; 3] = [Thing("b", None), Thing("c", Some(1)), Thing("a", Some(2))];

    fn names(table: &Table) -> Vec<&'static str> {
        table
            .rows(THINGS.iter(), 0)
            .iter()
            .map(|thing| thing.0)
            .collect()
    }

    #[test]
    fn rows_are_ordered_by_a_column_and_those_without_come_last() {
        let mut table = Table::default();
        assert_eq!(names(&table), ["a", "b", "c"]);
        table.sort_by(1);
        assert_eq!(names(&table), ["c", "a", "b"]);
        assert_eq!(table.first(THINGS.iter(), 0).unwrap().0, "c");
        table.sort_by(1);
        assert_eq!(names(&table), ["a", "c", "b"]);
    }

    #[test]
    fn the_selection_stays_with_its_row() {
        let mut table = Table::default();
        let rows = table.rows(THINGS.iter(), 0);
        table.select(&rows, 2);
        table.sort_by(1);
        let rows = table.rows(THINGS.iter(), 0);
        assert_eq!(rows[table.position(&rows)].0, "c");
        table.select(&rows, 99);
        assert_eq!(table.position(&rows), 2);
        assert_eq!(table.position::<Thing>(&[]), 0);
    }
}
