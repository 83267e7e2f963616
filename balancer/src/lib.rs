//! holdfast-balancer.
