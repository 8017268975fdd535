//! Programs of `guests/`: Rust with threads, Go, and C against musl.

use coracle_testkit::{Case, Content::*, Guest, Variant};

pub fn cases() -> Vec<Case> {
    let rust = |case: &str, args: &[&str]| {
        let guest = Guest::Rust { name: "threads".to_owned() };
        Case::guest(format!("rust::{case}"), guest, args).file("words", Text(300)).timeout(60)
    };
    let go = |case: &str, args: &[&str]| {
        let guest = Guest::Go { name: "work".to_owned() };
        Case::guest(format!("go::{case}"), guest, args).file("words", Text(300)).timeout(60)
    };
    let musl = |variant, case: &str, args: &[&str]| {
        let guest =
            Guest::C { dir: "programs".to_owned(), name: "wordcount".to_owned(), variant, libraries: Vec::new() };
        let kind = match variant {
            Variant::Musl => "musl",
            Variant::Static => "static",
            _ => "static-pie",
        };
        Case::guest(format!("{kind}::{case}"), guest, args).file("words", Text(300))
    };
    let mut all = vec![
        rust("count", &["count", "words"]),
        rust("ring", &["ring"]),
        rust("many", &["many"]),
        rust("locks", &["locks"]),
        rust("panic", &["panic"]),
        rust("error", &["count", "nothing"]),
        go("count", &["count", "words"]),
        go("goroutines", &["goroutines"]),
        go("exec", &["exec"]),
        go("signals", &["signals"]),
        go("panic", &["panic"]),
        go("error", &["count", "nothing"]),
    ];
    for variant in [Variant::Musl, Variant::Static, Variant::StaticPie] {
        all.push(musl(variant, "count", &["words"]));
        all.push(musl(variant, "error", &["nothing"]));
    }
    all
}
