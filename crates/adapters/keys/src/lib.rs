//! Key managers: [`MemoryKeys`] forgets with the process, [`DiskKeys`] keeps one file.
//!
//! Both hold ready key objects: signing neither reads a file nor parses or copies a key.
//! Deliberately not here: the promise itself and its conformance suite (`ports/plugin`).

mod disk;
mod memory;
mod ring;

pub use disk::{DiskKeys, DiskKeysError};
pub use memory::MemoryKeys;
