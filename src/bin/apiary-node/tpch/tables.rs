//! The eight tables of TPC-H: names, row counts, and their rows part by part.

use arrow::datatypes::SchemaRef;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RecordBatchIterator, RegionArrow,
    SupplierArrow,
};

/// Rows of the table that a part is counted in (orders, for line items) in one part: a part is a few batches, so that
/// several can be made ahead of the one that is being written without holding much of the table.
const UNITS_PER_PART: i64 = 8_192;

/// A table of TPC-H.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Region,
    Nation,
    Supplier,
    Customer,
    Part,
    PartSupp,
    Orders,
    LineItem,
}

impl Table {
    /// All tables, small ones first.
    pub(crate) const ALL: [Self; 8] = [
        Self::Region,
        Self::Nation,
        Self::Supplier,
        Self::Customer,
        Self::Part,
        Self::PartSupp,
        Self::Orders,
        Self::LineItem,
    ];

    /// Its name in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Customer => "customer",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// Its number of rows at `scale`.
    pub(crate) fn rows(self, scale: f64) -> u64 {
        match self {
            Self::Region => 5,
            Self::Nation => 25,
            // Every part has four suppliers.
            Self::PartSupp => 4 * self.units(scale).unsigned_abs(),
            Self::LineItem => count_lines(self.units(scale)),
            Self::Supplier | Self::Customer | Self::Part | Self::Orders => self.units(scale).unsigned_abs(),
        }
    }

    /// Its number of parts at `scale`.
    pub(crate) fn parts(self, scale: f64) -> i32 {
        i32::try_from(self.units(scale) / UNITS_PER_PART).unwrap_or(i32::MAX).max(1)
    }

    /// The rows of `part` (from 1) of `parts`; the parts one after another are the table.
    pub(crate) fn part(self, scale: f64, part: i32, parts: i32) -> Box<dyn RecordBatchIterator> {
        match self {
            Self::Region => Box::new(RegionArrow::new(RegionGenerator::new(scale, part, parts))),
            Self::Nation => Box::new(NationArrow::new(NationGenerator::new(scale, part, parts))),
            Self::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, part, parts))),
            Self::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, part, parts))),
            Self::Part => Box::new(PartArrow::new(PartGenerator::new(scale, part, parts))),
            Self::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, part, parts))),
            Self::Orders => Box::new(OrderArrow::new(OrderGenerator::new(scale, part, parts))),
            Self::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, part, parts))),
        }
    }

    /// Its columns.
    pub(crate) fn schema(self) -> SchemaRef {
        SchemaRef::clone(self.part(1.0, 1, 1).schema())
    }

    /// What its parts are cut by. Region and nation are one part whatever the scale.
    fn units(self, scale: f64) -> i64 {
        match self {
            Self::Region | Self::Nation => 1,
            Self::Supplier => SupplierGenerator::calculate_row_count(scale, 1, 1),
            Self::Customer => CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::Part | Self::PartSupp => PartGenerator::calculate_row_count(scale, 1, 1),
            Self::Orders | Self::LineItem => OrderGenerator::calculate_row_count(scale, 1, 1),
        }
    }
}

/// The number of line items of `orders` orders, which the generator draws at random, always alike.
fn count_lines(orders: i64) -> u64 {
    let mut lines = OrderGenerator::create_line_count_random();
    let mut total = 0;
    for _ in 0..orders {
        total += u64::from(lines.next_value().unsigned_abs());
        lines.row_finished();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_counts_are_those_of_the_benchmark() {
        let counts = Table::ALL.map(|table| table.rows(1.0));
        assert_eq!(counts, [5, 25, 10_000, 150_000, 200_000, 800_000, 1_500_000, 6_001_215]);
    }

    #[test]
    fn the_parts_together_are_the_table() {
        // Several parts of the big tables, the last one with what is left over.
        let scale = 0.03;
        for table in Table::ALL {
            let parts = table.parts(scale);
            let batches = (1..=parts).flat_map(|part| table.part(scale, part, parts));
            let rows: usize = batches.map(|batch| batch.num_rows()).sum();
            assert_eq!(rows as u64, table.rows(scale), "{}", table.name());
        }
    }

    #[test]
    fn big_tables_have_parts_enough_for_every_core() {
        assert_eq!(Table::Nation.parts(100.0), 1);
        assert_eq!(Table::LineItem.parts(1.0), 183);
        assert!(Table::LineItem.parts(100_000.0) > 1_000_000);
    }
}
