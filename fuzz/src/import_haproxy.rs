//! Settings of `HAProxy`, as `holdfast-balancer import` reads them.

use holdfast_balancer::import::Format;

/// See [`crate::import_nginx`].
pub fn run(input: &[u8]) {
    super::import_nginx::import(input, Format::Haproxy);
}
