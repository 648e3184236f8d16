//! What a queue's triggers note while a transaction runs: the rows, and the batch that is made of them.

pub(crate) mod batch;
mod events;
mod row;
#[cfg(feature = "bench_shapes")]
mod shapes;
mod trigger;
