//! From a SQL text to a plan that bees can run. No actor framework is known here.
//!
//! | file | noun |
//! |---|---|
//! | `statement` | a parsed statement: DataFusion's SQL plus hives, boxes and frames |
//! | `script` | several statements in one text |
//! | `session` | what one user has set: current hive and box, options |
//! | `planner` | statement → answer or physical plan |
//! | `rules` | the engine's rules for plans, and ours between them |
//! | `physical_query` | a plan that can run, and what it will cost |
//! | `command` | statements that need no plan |
//! | `show` | SHOW |
//! | `catalog` | the names that one statement mentions, as DataFusion catalogs |
//! | `view` | a query under a name |
//! | `time_travel` | versions of frames within queries |
//! | `changes` | what versions changed, as a view |
//! | `alter` | ALTER FRAME |
//! | `row_check` | the conditions of a frame, over rows that are written |
//! | `row_change` | DELETE, UPDATE and MERGE as queries |
//! | `layout`, `z_order` | how OPTIMIZE lays rows; the order along a Z-curve |
//! | `frame_table` | one version of a frame as a DataFusion table |
//! | `ripening` | a frame with rows that are not committed yet |
//! | `cell_reader` | how a scan opens a cell |
//! | `deleted` | cells some of whose rows do not count |
//! | `pruning` | which cells a filter can leave out |
//! | `files`, `file_options`, `csv_sample`, `json_schema`, `copy` | a file or a glob of files as a table, and how it is read; COPY |
//! | `distribution` | how a plan is split over bees |
//! | `watched_files`, `open_quotes`, `json_escapes` | files that the readers would take for something else |
//! | `shared_scan` | a scan that the bees of one colony share out while it runs |
//! | `chains` | how long chains of operators may be |
//! | `limits` | how large a statement may be |
//! | `long_list` | many values behind IN |
//! | `refused` | what the engine would answer otherwise than SQL does |
//! | `nulls` | where the engine loses track of nulls |
//! | `one_value` | queries that stand for one value |
//! | `join_order`, `cardinality`, `selectivity`, `broadcast` | the order of joins, by how many rows are expected, and their sides |
//! | `filter_names` | filters that sink where columns have the same name |
//! | `group_reduction` | aggregates of which a join wants a few groups |
//! | `same_frames` | frames whose names would be taken for each other |
//! | `same_names` | columns that would have the same name |
//! | `order_by_all` | ORDER BY ALL |
//! | `spelling` | what the parser takes otherwise than it is meant |
//! | `rewrites` | expressions that the engine takes otherwise than SQL does |
//! | `bounded` | functions that must not grow without end |
//! | `codec` | how our own steps of a plan travel |
//! | `passing` | steps of a plan that pass rows on |
//! | `pieces` | a join's input in small pieces |
//! | `compact` | sorted rows that hold on to no more memory than they need |
//! | `windows` | windows that would be others on the bees they are sent to |
//! | `window_parts` | windows over one partition at a time |
//! | `stop_points` | where a plan lets go of its thread |
//! | `world`, `system_table` | the tables of the box `system` |
//! | `verify` | whether what the ledger says of cells is so |
//! | `answer` | small result tables of DDL, SHOW and DESCRIBE |

mod alter;
mod answer;
pub mod bounded;
mod broadcast;
mod cardinality;
mod catalog;
pub mod cell_reader;
mod chains;
mod changes;
pub mod codec;
mod command;
mod compact;
mod copy;
mod csv_sample;
mod deleted;
pub mod distribution;
mod error;
mod file_options;
mod files;
mod filter_names;
mod frame_table;
mod group_reduction;
mod join_order;
mod json_escapes;
mod json_schema;
mod layout;
mod limits;
pub mod long_list;
mod nulls;
pub mod one_value;
mod open_quotes;
mod order_by_all;
mod passing;
mod physical_query;
mod pieces;
mod planner;
mod pruning;
mod refused;
pub mod rewrites;
mod ripening;
pub(crate) mod row_change;
pub mod row_check;
mod rules;
mod same_frames;
mod same_names;
mod script;
mod selectivity;
mod session;
pub mod shared_scan;
mod show;
mod spelling;
pub(crate) mod statement;
mod stop_points;
mod system_table;
mod time_travel;
mod verify;
mod view;
mod watched_files;
mod window_parts;
mod windows;
mod world;
pub mod z_order;

pub use answer::{Facts, altered, changed, verified, written};
pub use catalog::Target;
pub use copy::Output;
pub use distribution::Split;
pub(crate) use error::WORN_OUT;
pub use frame_table::{ScanNote, ScanNotes};
pub use layout::Layout;
pub use physical_query::PhysicalQuery;
pub use planner::{Ask, Params, Planned, Planner, Spread};
pub use ripening::Ripening;
pub use row_change::RowChange;
pub use script::{is_blank, split_statements};
pub use session::{Backpressure, Distribute, SqlSession};
pub use statement::check_expression;
pub use verify::Inspection;
pub use world::World;
