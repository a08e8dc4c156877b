//! `coffer-injector notifier` between a queue of LocalStack's and a real API server, and what nodes hear of
//! it.

mod announce;
mod election;
mod fixture;
mod outage;
mod rights;
