//! The workload attestor port: facts about a process on the node.
