//! What Mode Envoy knows about AI: dialects, event streams, usage, prices and the embedded model.
//!
//! Everything here is a function of its arguments. There is no socket, clock, random number or hash
//! order in this crate, so each rule can be tested with bytes in and bytes out:
//! * amounts are integers (tokens, pico-dollars, nano-dollars), never floats;
//! * every input has a limit, stated where it is enforced;
//! * where client and provider speak the same dialect, bytes are relayed as they came and only a
//!   copy is looked at.

pub mod embedded;
pub mod error;
pub mod estimate;
pub mod openai;
pub mod price;
pub mod sse;
pub mod usage;
