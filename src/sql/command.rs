//! Statements that need no plan: they are carried out while the caller waits.

use std::time::Duration;

use arrow::array::RecordBatch;

use super::answer;
use super::catalog::{box_names, frame_name};
use super::planner::Planner;
use super::session::SqlSession;
use super::statement::{Kind, Statement};
use crate::storage::vacuum::RETENTION;
use crate::storage::{AsOf, HiveName};
use crate::{Error, Result};

impl Planner {
    /// Carries out a statement about hives, boxes, views or one frame.
    ///
    /// # Errors
    /// What is wrong with its names, or what the meadow says.
    pub(super) async fn carry_out(&self, statement: Statement, session: &SqlSession) -> Result<RecordBatch> {
        match statement {
            Statement::CreateHive { name, if_not_exists } => {
                let hive = hive_name(&name)?;
                self.meadow.require_writable()?;
                self.meadow.registry().create_hive(&hive, if_not_exists).await?;
                answer::done(format!("hive {hive} is there"))
            }
            Statement::CreateBox { name, if_not_exists } => {
                let (hive, box_) = box_names(&name, session)?;
                self.meadow.require_writable()?;
                self.meadow.registry().create_box(&hive, &box_, if_not_exists).await?;
                answer::done(format!("box {hive}.{box_} is there"))
            }
            Statement::Drop { kind, name, if_exists, cascade } => {
                self.drop(kind, &name, if_exists, cascade, session).await
            }
            Statement::Use { kind, name } => self.use_(kind, &name, session).await,
            Statement::Show(shown) => self.show(shown, session).await,
            Statement::ShowCreate { name } => self.show_create(&name, session).await,
            Statement::ShowProperties { name } => self.show_properties(&name, session).await,
            Statement::DropView { name, if_exists } => {
                let gone = self.meadow.drop_view(&frame_name(&name, session)?, if_exists).await?;
                answer::done(dropped(&name, gone))
            }
            Statement::Detail { name } => {
                let frame = frame_name(&name, session)?;
                let (info, kept) = (self.meadow.describe(&frame).await?, self.meadow.keeps_house(&frame).await?);
                let properties = self.meadow.state(&frame, AsOf::Latest).await?.properties();
                answer::detailed(&info, kept, &properties)
            }
            Statement::History { name, limit } => {
                let frame = frame_name(&name, session)?;
                self.meadow.registry().frame(&frame).await?;
                answer::history(&self.meadow.ledger().history(&frame, limit).await?)
            }
            Statement::Restore { name, to } => {
                let frame = frame_name(&name, session)?;
                answer::restored(&frame, &self.meadow.restore(&frame, to).await?)
            }
            Statement::Attach { name } => {
                let frame = frame_name(&name, session)?;
                let version = self.meadow.attach(&frame).await?;
                answer::done(format!("{frame} is attached, at version {version}"))
            }
            Statement::Detach { name } => {
                let frame = frame_name(&name, session)?;
                let location = self.meadow.detach(&frame).await?;
                answer::done(format!("{frame} is detached; its table stays in {location}"))
            }
            Statement::Housekeeping { name, on } => {
                let frame = frame_name(&name, session)?;
                self.meadow.set_housekeeping(&frame, on).await?;
                answer::done(format!("housekeeping of {frame} is {}", if on { "on" } else { "off" }))
            }
            Statement::Vacuum { name, retain, force, dry_run } => {
                let frame = frame_name(&name, session)?;
                let (cells, log) = self.meadow.state(&frame, AsOf::Latest).await?.retention()?;
                let retain = retention(retain, dry_run || force)?.unwrap_or(cells);
                let mut leftovers = self.meadow.vacuum(&frame, retain, dry_run).await?;
                if let Some(log) = log {
                    leftovers.extend(self.meadow.clean_log(&frame, log.max(retain), dry_run).await?);
                }
                answer::vacuumed(&leftovers, !dry_run)
            }
            Statement::CreateFrame { .. }
            | Statement::CreateView(_)
            | Statement::Describe { .. }
            | Statement::DescribeQuery(_)
            | Statement::Alter { .. }
            | Statement::Optimize { .. }
            | Statement::CopyFrom { .. }
            | Statement::Verify { .. }
            | Statement::Other(_) => Err(Error::internal("a query was carried out as DDL")),
        }
    }

    async fn drop(
        &self,
        kind: Kind,
        name: &[String],
        if_exists: bool,
        cascade: bool,
        session: &SqlSession,
    ) -> Result<RecordBatch> {
        let gone = match kind {
            Kind::Hive => self.meadow.drop_hive(&hive_name(name)?, if_exists, cascade).await?,
            Kind::Box => {
                let (hive, box_) = box_names(name, session)?;
                self.meadow.drop_box(&hive, &box_, if_exists, cascade).await?
            }
            Kind::Frame => self.meadow.drop_frame(&frame_name(name, session)?, if_exists).await?,
        };
        answer::done(dropped(name, gone))
    }

    async fn use_(&self, kind: Kind, name: &[String], session: &SqlSession) -> Result<RecordBatch> {
        match kind {
            Kind::Hive => {
                let hive = hive_name(name)?;
                self.meadow.registry().boxes(&hive).await?;
                session.use_hive(hive);
            }
            Kind::Box => {
                let (hive, box_) = box_names(name, session)?;
                self.meadow.registry().frames_of(&hive, &box_).await?;
                session.use_box(hive, box_);
            }
            Kind::Frame => return Err(Error::invalid("USE takes a hive or a box")),
        }
        answer::done(format!("using {}.{}", session.hive(), session.box_name()))
    }
}

pub(super) fn hive_name(name: &[String]) -> Result<HiveName> {
    match name {
        [hive] => HiveName::new(hive),
        _ => Err(Error::invalid(format!("'{}' is not a hive: write one name", name.join(".")))),
    }
}

/// How long a vacuum keeps cells; less than the usual time only on demand.
fn retention(asked: Option<Duration>, allowed: bool) -> Result<Option<Duration>> {
    match asked {
        Some(asked) if asked < RETENTION && !allowed => Err(Error::invalid(format!(
            "cells removed within {} hours may still be read, and younger ones may be of a write that goes on: keep them, \
             or add FORCE when nobody else uses the frame",
            RETENTION.as_secs() / 3600
        ))),
        asked => Ok(asked),
    }
}

fn dropped(name: &[String], gone: bool) -> String {
    format!("{} {}", name.join("."), if gone { "is dropped" } else { "was not there" })
}
