//! How the steps of a plan that are our own travel to other bees.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use super::compact::CompactExec;
use super::pieces::PiecesExec;
use super::shared_scan::SharedScanExec;
use super::window_parts::WindowPartsExec;
use crate::Error;

/// How compact rows travel.
const COMPACT: &[u8] = b"c";
/// How windows over a partition at a time travel.
const WINDOW_PARTS: &[u8] = b"w";

/// A shared scan travels as its number, pieces as nothing, others as a letter; what is below them travels as any other step.
#[derive(Debug)]
pub struct StepCodec;

impl PhysicalExtensionCodec for StepCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let number = <[u8; 8]>::try_from(bytes).map(u64::from_le_bytes);
        match (number, inputs) {
            (Ok(number), [scan]) => Ok(Arc::new(SharedScanExec::arrived(number, Arc::clone(scan)))),
            (Err(_), [input]) if bytes.is_empty() => Ok(Arc::new(PiecesExec::new(Arc::clone(input)))),
            (Err(_), [input]) if bytes == COMPACT => Ok(Arc::new(CompactExec::new(Arc::clone(input)))),
            (Err(_), [input]) if bytes == WINDOW_PARTS => Ok(Arc::new(WindowPartsExec::new(Arc::clone(input)))),
            _ => Err(Error::corrupt("a task's plan has a step that this version does not know").into()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<(), DataFusionError> {
        if let Some(shared) = node.downcast_ref::<SharedScanExec>() {
            bytes.extend(shared.number().to_le_bytes());
        } else if node.is::<CompactExec>() {
            bytes.extend(COMPACT);
        } else if node.is::<WindowPartsExec>() {
            bytes.extend(WINDOW_PARTS);
        } else if !node.is::<PiecesExec>() {
            return Err(
                Error::unsupported(format!("{} cannot be sent to another bee: use one bee", node.name())).into()
            );
        }
        Ok(())
    }
}
