use muster_policy::{BatchDeleteEntry, Class, Permit, Principal};

fn main() {
    let principal = Principal {
        class: Class::Local,
        id: None,
        process: None,
        work: None,
    };
    let _permit: Permit<BatchDeleteEntry> = Permit {
        principal,
        action: std::marker::PhantomData,
    };
}
