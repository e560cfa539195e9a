//! The key manager port: keys that sign without being handed out.
