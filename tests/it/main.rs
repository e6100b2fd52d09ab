//! The integration tests: one binary, because each links Arrow and Parquet.
//!
//! | file | what it shows |
//! |---|---|
//! | `support` | colonies that clean up after themselves, rows |
//! | `server`, `ministack`, `azurite` | real object stores: S3, Azure |
//! | `conformance` | every place and decorator keeps the promises that commits rest on |
//! | `frames` | versions, checkpoints, schema rules, names, hostile ledgers |
//! | `foreign` | frames as other engines leave them |
//! | `vectors` | rows that are marked as deleted instead of their cells being written anew |
//! | `commits` | many writers, lost acknowledgements, conflicts |
//! | `sqllogic` | the statements of `tests/slt` and their answers |
//! | `streams` | rows that ripen: seen at once, committed once, never lost |
//! | `changes` | DELETE, UPDATE, MERGE, OPTIMIZE, VACUUM against a plain list of rows |
//! | `housekeeping` | cells merged by themselves, log entries that go |
//! | `regulation` | what a hot node does: who waits, who is held back, who passes |
//! | `isolation` | what one query does to the others: nothing |
//! | `splits` | a split plan answers as plain DataFusion does |
//! | `tpch` | its tables, queries and answers |
//! | `swarm` | many nodes on one meadow: equal answers, kills, zombies, leaving |
//! | `simulation` | the swarm's protocol under every kind of fault, seeded |
//! | `crash` | kill -9 in the middle of writing |
//! | `embed` | colonies in the Systems, runtimes and processes of others |
//! | `layering` | dependencies point one way |
//! | `actix_semantics` | the behaviours of actix that we rely on |

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod actix_semantics;
mod azurite;
mod changes;
mod commits;
mod conformance;
mod crash;
mod embed;
mod foreign;
mod frames;
mod housekeeping;
mod isolation;
mod layering;
mod ministack;
mod regulation;
mod server;
mod simulation;
mod splits;
mod sqllogic;
mod streams;
mod support;
mod swarm;
mod tpch;
mod vectors;
