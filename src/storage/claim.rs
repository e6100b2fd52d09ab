//! Jobs that one node at a time does: whoever creates the claim has it.
//!
//! A claim that does not change for a while, by the clock of who looks, is of a node that died: one of those who see that
//! takes it over. No clock of another machine is compared with one's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;

use super::backend::StorageBackend;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Claims on jobs in one meadow.
#[derive(Debug)]
pub struct Claims {
    backend: Arc<dyn StorageBackend>,
    /// After that time without a change a claim is taken over.
    stale: Duration,
    /// What others' claims held, and since when that is known.
    seen: Mutex<HashMap<Path, (Bytes, Instant)>>,
}

/// A job that is this node's until it is given back.
#[derive(Debug, Clone)]
struct Claim {
    path: Path,
    id: String,
}

impl Claims {
    /// Claims in `backend`; one that has not changed for `stale` is of a node that died.
    pub fn new(backend: Arc<dyn StorageBackend>, stale: Duration) -> Self {
        Self { backend, stale, seen: Mutex::default() }
    }

    /// Takes the job at `path`; `None` when another node has it.
    ///
    /// # Errors
    /// What the storage says.
    async fn take(&self, path: &Path) -> Result<Option<Claim>> {
        let claim = Claim { path: path.clone(), id: uuid::Uuid::new_v4().simple().to_string() };
        if self.backend.put_if_not_exists(path, claim.body(0)).await? {
            return Ok(Some(claim));
        }
        let there = match self.backend.get(path).await {
            Ok(there) => there,
            // Given back just now: the next look may find it free.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let unchanged = {
            let mut seen = lock(&self.seen);
            let known = seen.entry(path.clone()).or_insert_with(|| (there.clone(), Instant::now()));
            if known.0 != there {
                *known = (there.clone(), Instant::now());
            }
            known.1.elapsed()
        };
        if unchanged < self.stale { Ok(None) } else { self.take_over(claim, &there, unchanged).await }
    }

    /// Of all who see that a claim is stale, the one that creates the mark of just this claim gets it.
    async fn take_over(&self, claim: Claim, stale: &Bytes, unchanged: Duration) -> Result<Option<Claim>> {
        let holder = String::from_utf8_lossy(stale);
        let holder =
            holder.split(' ').next().filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let mark = Path::from(format!("{}.over-{}", claim.path, holder.unwrap_or("damaged")));
        if self.backend.put_if_not_exists(&mark, claim.body(0)).await? {
            // Another may have taken it over, mark and all, since it was looked at.
            if self.backend.get(&claim.path).await.is_ok_and(|now| now != stale) {
                self.backend.delete(&mark).await?;
                return Ok(None);
            }
            self.backend.put(&claim.path, claim.body(0)).await?;
            self.backend.delete(&mark).await?;
            lock(&self.seen).remove(&claim.path);
            return Ok(Some(claim));
        }
        if unchanged > self.stale * 2 {
            // Who had the mark died, too.
            self.backend.delete(&mark).await?;
        }
        Ok(None)
    }

    /// Shows that the holder lives, `count` times so far.
    ///
    /// # Errors
    /// `Conflict` when it was taken for dead and another has the job now; what the storage says.
    async fn renew(&self, claim: &Claim, count: u64) -> Result<()> {
        if !self.backend.get(&claim.path).await?.starts_with(claim.id.as_bytes()) {
            return Err(Error::conflict("another node has taken this job over"));
        }
        self.backend.put(&claim.path, claim.body(count)).await
    }

    /// How often a claim is to be renewed.
    fn renewal(&self) -> Duration {
        self.stale / 4
    }

    /// Does `work` if this node gets the job at `path`, and shows meanwhile that it lives; `None` when another has it.
    ///
    /// # Errors
    /// Those of `work`; `Conflict` when this node was taken for dead; what the storage says.
    pub async fn hold<T>(&self, path: &Path, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        let Some(claim) = self.take(path).await? else { return Ok(None) };
        let mut held = Held { backend: Arc::clone(&self.backend), claim: Some(claim.clone()) };
        let outcome = tokio::select! {
            outcome = work => outcome,
            lost = self.renewing(&claim) => Err(lost),
        };
        held.claim = None;
        if let Err(error) = give_back(self.backend.as_ref(), &claim).await {
            // The work is done, or not, whatever becomes of the claim: it is taken over when it is stale.
            tracing::warn!(%error, path = %claim.path, "a claim could not be given back");
        }
        outcome.map(Some)
    }

    /// Renews a claim until another has it, or until it could not be for so long that another may have it.
    async fn renewing(&self, claim: &Claim) -> Error {
        let (mut count, mut renewed) = (0, Instant::now());
        loop {
            count += 1;
            tokio::time::sleep(self.renewal()).await;
            match self.renew(claim, count).await {
                Ok(()) => renewed = Instant::now(),
                Err(error) if error.kind() == ErrorKind::Conflict || renewed.elapsed() > self.stale / 2 => {
                    return error;
                }
                Err(error) => tracing::debug!(%error, path = %claim.path, "a claim was not renewed"),
            }
        }
    }
}

/// A claim that goes back when nobody waits for its work any more.
struct Held {
    backend: Arc<dyn StorageBackend>,
    claim: Option<Claim>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (Some(claim), Ok(runtime)) = (self.claim.take(), tokio::runtime::Handle::try_current()) else { return };
        let backend = Arc::clone(&self.backend);
        drop(runtime.spawn(async move { give_back(backend.as_ref(), &claim).await }));
    }
}

/// Gives a job back; one that was taken over meanwhile stays with its new holder.
async fn give_back(backend: &dyn StorageBackend, claim: &Claim) -> Result<()> {
    match backend.get(&claim.path).await {
        Ok(there) if there.starts_with(claim.id.as_bytes()) => backend.delete(&claim.path).await,
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Claim {
    fn body(&self, count: u64) -> Bytes {
        format!("{} {count}", self.id).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::open_backend;
    use super::*;

    fn claims(stale: Duration) -> [Claims; 2] {
        let io = tokio::runtime::Handle::current();
        let backend = open_backend("memory://", &std::collections::BTreeMap::new(), &io).unwrap();
        [Claims::new(Arc::clone(&backend), stale), Claims::new(backend, stale)]
    }

    #[tokio::test]
    async fn a_job_is_one_nodes_until_it_is_given_back() {
        let [here, there] = claims(Duration::from_secs(60));
        let path = Path::from("_housekeeping/a/job");
        let claim = here.take(&path).await.unwrap().unwrap();
        assert!(there.take(&path).await.unwrap().is_none());
        here.renew(&claim, 1).await.unwrap();
        assert!(there.take(&path).await.unwrap().is_none());
        give_back(here.backend.as_ref(), &claim).await.unwrap();
        assert!(there.take(&path).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_is_given_back() {
        let [here, there] = claims(Duration::from_secs(60));
        let path = Path::from("_housekeeping/a/job");
        let forever = here.hold(&path, std::future::pending::<Result<()>>());
        assert!(tokio::time::timeout(Duration::from_millis(20), forever).await.is_err());
        let mut tries = 0;
        while there.hold(&path, async { Ok(7) }).await.unwrap().is_none() {
            tries += 1;
            assert!(tries < 500);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn a_dead_nodes_job_is_taken_over_once_and_a_living_ones_is_not() {
        let [here, there] = claims(Duration::from_millis(40));
        let path = Path::from("_housekeeping/a/job");
        let dead = here.take(&path).await.unwrap().unwrap();
        for count in 0..4 {
            assert!(there.take(&path).await.unwrap().is_none());
            here.renew(&dead, count + 1).await.unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        assert!(there.take(&path).await.unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(60)).await;
        let taken = there.take(&path).await.unwrap().unwrap();
        // The old holder comes back: what it gives back is not its any more.
        give_back(here.backend.as_ref(), &dead).await.unwrap();
        assert!(here.take(&path).await.unwrap().is_none());
        give_back(there.backend.as_ref(), &taken).await.unwrap();
        assert!(here.take(&path).await.unwrap().is_some());
    }
}
