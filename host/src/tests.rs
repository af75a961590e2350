//! The host against a worker that follows a script: see [`crate::fake_worker`].

mod callbacks;
mod channels;
mod connection;
mod dozing;
mod hostile;
mod inside_values;
mod leading;
mod output;
mod pool_core;
mod pool_far;
mod pool_gateways;
mod pool_schedules;
mod queues;
mod recycling;
mod straight;
mod taken_over;
mod termination;
