//! What the guests of one sandbox share. There are no statics: everything is reached through the [`World`].

use std::sync::Arc;

use coracle_platform::Platform;

/// One sandbox.
pub struct World {
    pub platform: Arc<dyn Platform>,
}
