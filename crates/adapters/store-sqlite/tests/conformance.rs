//! The port's suite.

use async_trait::async_trait;
use muster_store::{Store, StoreError, conformance};
use muster_store_sqlite::SqliteStore;
use tempfile::TempDir;

struct Place(TempDir);

#[async_trait]
impl conformance::Place for Place {
    async fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(SqliteStore::open(self.0.path().join("roll.db"))?))
    }
}

#[tokio::test]
async fn conformance() {
    conformance::run(|| Place(TempDir::new().unwrap())).await;
}
