//! Which columns of a wide frame have statistics in its ledger.
//!
//! Of more than 32 columns Delta's writers keep bounds for the first ones, whatever they are, and the ledger of a frame with
//! bounds for a thousand grows with every cell. A new frame says which by `delta.dataSkippingStatsColumns`: those that
//! filters are on most often.

use arrow::datatypes::{DataType, Field, Schema};
use delta_kernel::expressions::ColumnName;

/// The table property.
pub(super) const STATS_COLUMNS: &str = "delta.dataSkippingStatsColumns";
/// As many columns as have statistics where nothing is said.
const MOST: usize = 32;

/// The property's value for a new frame; `None` where all columns have statistics anyway.
pub(super) fn stats_columns(schema: &Schema, partition_by: &[String]) -> Option<String> {
    let leaves: usize = schema.fields().iter().map(|field| leaves(field)).sum();
    if leaves - partition_by.len() <= MOST {
        return None;
    }
    let data = schema.fields().iter().enumerate().filter(|(_, field)| !partition_by.contains(field.name()));
    let mut ranked: Vec<_> = data.filter_map(|(at, field)| Some((rank(field.data_type())?, at))).collect();
    ranked.sort_unstable();
    ranked.truncate(MOST);
    ranked.sort_unstable_by_key(|(_, at)| *at);
    Some(listed(ranked.into_iter().map(|(_, at)| ColumnName::new([schema.field(at).name()]))))
}

/// The property's value with these columns; `None` where it has them.
pub(super) fn with_columns(value: &str, columns: &[String]) -> Option<String> {
    let mut names = ColumnName::parse_column_name_list(value).ok()?;
    let before = names.len();
    let missing = columns.iter().map(|name| ColumnName::new([name])).filter(|name| !names.contains(name));
    let missing: Vec<_> = missing.collect();
    names.extend(missing);
    (names.len() > before).then(|| listed(names.into_iter()))
}

/// The property's value after a column of the frame has another name, or is dropped; `None` where it stays.
pub(super) fn renamed(value: &str, from: &str, to: Option<&str>) -> Option<String> {
    let names = ColumnName::parse_column_name_list(value).ok()?;
    let is_it = |name: &ColumnName| name.iter().next().is_some_and(|first| first == from);
    if !names.iter().any(is_it) {
        return None;
    }
    let renamed = names.iter().filter_map(|name| match (is_it(name), to) {
        (true, Some(to)) => Some(ColumnName::new(std::iter::once(to.to_string()).chain(name.iter().skip(1).cloned()))),
        (true, None) => None,
        (false, _) => Some(name.clone()),
    });
    Some(listed(renamed))
}

pub(super) fn listed(names: impl Iterator<Item = ColumnName>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(",")
}

fn leaves(field: &Field) -> usize {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field)).sum(),
        _ => 1,
    }
}

/// When rows came about and what they are of is asked for more often than what was measured. Of the rest bounds say nothing.
fn rank(data_type: &DataType) -> Option<u8> {
    match data_type {
        data_type if data_type.is_temporal() => Some(0),
        data_type if data_type.is_integer() || data_type.is_decimal() => Some(1),
        DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(2),
        data_type if data_type.is_floating() => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(types: impl IntoIterator<Item = DataType>) -> Schema {
        let field = |(at, data_type)| Field::new(format!("c{at}"), data_type, true);
        Schema::new(types.into_iter().enumerate().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn of_many_columns_those_are_chosen_that_filters_are_on() {
        let narrow = schema(vec![DataType::Float64; 32]);
        assert_eq!(stats_columns(&narrow, &[]), None);
        let measured = std::iter::repeat_n(DataType::Float64, 40);
        let wide = schema(measured.chain([DataType::Binary, DataType::Utf8, DataType::Date32, DataType::Int64]));
        let chosen = stats_columns(&wide, &[]).unwrap();
        assert_eq!(chosen.split(',').count(), MOST);
        assert!(chosen.starts_with("c0,c1,") && chosen.ends_with(",c28,c41,c42,c43"), "{chosen}");
        // A cell has one value of a partition column.
        assert!(stats_columns(&wide, &["c42".into()]).unwrap().ends_with(",c28,c29,c41,c43"));
    }

    #[test]
    fn names_follow_their_columns() {
        assert_eq!(renamed("a,b.x,`c d`", "b", Some("e f")).unwrap(), "a,`e f`.x,`c d`");
        assert_eq!(renamed("a,b.x,`c d`", "c d", None).unwrap(), "a,b.x");
        assert_eq!(renamed("a,b.x", "x", Some("y")), None);
        assert_eq!(with_columns("a,b", &["b".into(), "c d".into()]).unwrap(), "a,b,`c d`");
        assert_eq!(with_columns("a,b", &["b".into()]), None);
    }
}
