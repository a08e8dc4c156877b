//! Many mistakes at once, and huge ones.

use super::{DB, PREFIX, annotations, injected, read};
use crate::webhook::annotations::Wish;

#[test]
fn all_mistakes_are_told_at_once() {
    let found = read(&[
        DB,
        ("config", "app"),
        ("file.x", "nonsense"),
        ("files", "- {name: a}"),
        ("mode", "none"),
        ("on-change", "- http: https://127.0.0.1/\n- 7"),
        ("paht", "/x"),
        ("resources", "{limits: {cpu: lots}, more: 1}"),
    ]);
    let found = found.unwrap_err();
    let names: Vec<&str> = found.lines().filter_map(|line| line.split_once(": ").map(|(name, _)| name)).collect();
    assert_eq!(
        names,
        [
            "coffer.dev/inject",
            "coffer.dev/paht",
            "coffer.dev/mode",
            "coffer.dev/resources",
            "coffer.dev/resources",
            "coffer.dev/on-change:1:9",
            "coffer.dev/on-change:2:3",
            "coffer.dev/files:1:3",
            "coffer.dev/file.x",
            "coffer.dev/config",
            "coffer.dev/config",
            "coffer.dev/on-change",
        ],
        "{found}"
    );
}

#[test]
fn what_is_huge_is_told_in_short() {
    let long = |length: usize| "x".repeat(length);
    for (name, value) in [
        ("files", long(65 * 1024)),
        ("on-change", long(17 * 1024)),
        ("resources", long(5000)),
        ("mode", long(5000)),
        ("file.db", format!("secretsmanager:{}", long(66 * 1024))),
        (&*long(5000), long(5000)),
        ("region", long(4000)),
        ("containers", long(4000)),
        ("path", format!("/{}", long(4000))),
        ("config", format!("a/{}", long(4000))),
    ] {
        let found = injected(&[("file.a", "secretsmanager:a"), (name, &value)]).unwrap_err();
        assert!(found.len() < 500, "{found}");
        assert!(found.starts_with(&format!("{PREFIX}{}", &name[..name.len().min(20)])), "{found}");
    }
    let mut many = annotations(&[("inject", "true"), DB]);
    many.extend((0..5000).map(|at| (format!("{PREFIX}unknown-{at}"), "x".to_owned())));
    let found = Wish::read(&many).unwrap_err();
    assert_eq!((found.len(), found[40].text.as_str()), (41, "and more mistakes than are told here"));
    many.insert("of-another".to_owned(), long(256 * 1024));
    let found = Wish::read(&many).unwrap_err();
    assert!(found.len() == 1 && found[0].text.contains("Kubernetes takes 262144"), "{found:?}");
}

#[test]
fn aliases_do_not_swell() {
    let text = format!("{{{{ db }}}}{}", "x".repeat(30_000));
    let mut swelling = format!("values: {{db: 'secretsmanager:x'}}\nfiles:\n- {{name: a, template: &t '{text}'}}\n");
    // Few aliases with much text, and many with little: the parser itself minds only the latter.
    for at in 0..90 {
        swelling.push_str(&format!("- {{name: n{at}, template: *t}}\n"));
    }
    let many = format!("- &x {{name: a, from: 'secretsmanager:x'}}\n{}", "- *x\n".repeat(2000));
    let mut laughs = "a: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for at in 1..6 {
        laughs.push_str(&format!("a{at}: &a{at} [{}]\n", format!("*a{}, ", at - 1).repeat(8)));
    }
    for text in [swelling, many, laughs] {
        for name in ["files", "on-change", "resources"] {
            let found = injected(&[DB, (name, &text)]).unwrap_err();
            assert!(
                found.contains("aliases that repeat them") || found.contains("bytes, and may hold"),
                "{name}: {found}"
            );
        }
    }
}
