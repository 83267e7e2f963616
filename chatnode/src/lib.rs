//! holdfast-chatnode.
