use muster_model::EntryId;
use muster_policy::{Caller, ListEntries, decide};
use muster_store::Transaction;

fn main() {
    // Whoever may read the entries may not yet delete one.
    let permit = decide::<ListEntries>(&Caller::Local { pid: 1, uid: 0 }).unwrap();
    let mut transaction = Transaction::new();
    transaction.delete_entry(&permit, EntryId::parse("e").unwrap());
}
