use muster_model::EntryId;
use muster_policy::{BatchDeleteEntry, Caller, decide};
use muster_store::Transaction;

fn main() {
    let permit = decide::<BatchDeleteEntry>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
    let mut transaction = Transaction::new();
    transaction.delete_entry(&permit, EntryId::parse("e").unwrap());
    assert_eq!(transaction.changes().len(), 1);
}
