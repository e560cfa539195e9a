use muster_model::EntryId;
use muster_store::Transaction;

fn main() {
    let mut transaction = Transaction::new();
    transaction.delete_entry(EntryId::parse("e").unwrap());
}
