//! coreutils.

use coracle_testkit::{Case, Content::*};

pub fn cases() -> Vec<Case> {
    vec![
        Case::sh("coreutils::sort", "sort words | uniq -c | sort -rn | head -40").file("words", Text(200)),
        Case::sh("coreutils::error", "cat missing; ls /nowhere; exit 7"),
    ]
}
