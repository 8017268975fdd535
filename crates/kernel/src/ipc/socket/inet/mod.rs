//! `AF_INET`, `AF_INET6` and what else `socket` offers besides `AF_UNIX`.

use std::sync::Arc;

use super::{Kind, Socket};
use crate::call::Ctx;
use crate::{Errno, Result};

/// A socket of a family other than `AF_UNIX`.
pub fn open(_cx: &Ctx<'_>, _domain: u32, _kind: Result<Kind>, _protocol: u32) -> Result<Arc<dyn Socket>> {
    Err(Errno::EAFNOSUPPORT)
}
