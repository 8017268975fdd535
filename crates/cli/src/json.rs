//! Lines of JSON for programs, which people see on terminals, too.

use std::fmt::Write;

use coracle::shown;
use serde::Serialize;

/// One line. JSON itself lets characters pass that steer a terminal; here they are escaped like the rest.
pub fn line(value: &impl Serialize) -> String {
    // Plain numbers and words only: this cannot fail.
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if shown::is_plain(c) {
            line.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_steers_a_terminal() {
        let text = "a \"b\" \n\u{7f}\u{9b}31m é \u{202e}\u{e0001}";
        let line = line(&text);
        assert_eq!(line, r#""a \"b\" \n\u007f\u009b31m é \u202e\udb40\udc01""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
