use muster_model::EntryId;
use muster_roll::Change;
use muster_store::Transaction;

fn main() {
    let _transaction = Transaction {
        changes: vec![Change::DeleteEntry(EntryId::parse("e").unwrap())],
        records: Vec::new(),
    };
}
