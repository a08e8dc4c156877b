//! What a volume does after its set was replaced: the list under `on_change`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::on_change::{Action, Means, OnChange, ProcessName, Recipient, Signal};
use super::super::yaml::{Kind, Node};
use super::super::{Place, nearest};
use super::fields::{Fields, Problems, absolute_path, boolean, duration, list, text};
use super::table::{Demands, Mapping, Setting, Takes, Without};

const MEANS: &[&str] = &["http", "signal", "exec", "touch"];

pub(super) static ACTION: Mapping = Mapping {
    id: "action",
    what: "an action",
    meaning: "One way to tell the application of a new set",
    keys: &[
        Setting {
            name: "http",
            takes: Takes::Form(
                "an address `http://` on loopback",
                "^[Hh][Tt][Tt][Pp]://(127\\.[0-9.]+|\\[::1\\]|[Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt])([:/?].*)?$",
                "http://127.0.0.1:8080/-/reload",
            ),
            without: Without::Nothing,
            meaning: "A POST with names and versions as JSON",
        },
        Setting {
            name: "signal",
            takes: Takes::Word(|| Signal::names().flat_map(|name| [name.to_owned(), format!("SIG{name}")]).collect()),
            without: Without::Nothing,
            meaning: "A signal, to `process` or to what `pid_file` names",
        },
        Setting {
            name: "exec",
            takes: Takes::Command,
            without: Without::Nothing,
            meaning: "A command, without a shell and with no environment but PATH and COFFER_…",
        },
        Setting {
            name: "touch",
            takes: Takes::Path("a file outside of every volume"),
            without: Without::Nothing,
            meaning: "A file whose modification time is set to now; it is made where it is not there",
        },
        Setting {
            name: "timeout",
            takes: Takes::Time(TIMEOUT),
            without: Without::Says("5s for `http`, 30s for `exec`; the others take none"),
            meaning: "How long the action may take",
        },
        Setting {
            name: "process",
            takes: Takes::Text("the name of a program, without its path"),
            without: Without::Nothing,
            meaning: "Who gets the signal: every process of that name; in a pod it takes shareProcessNamespace",
        },
        Setting {
            name: "pid_file",
            takes: Takes::Path("the file with the process's number"),
            without: Without::Nothing,
            meaning: "Who gets the signal: the process whose number is in the file",
        },
        Setting {
            name: "first",
            takes: Takes::Boolean,
            without: Without::No,
            meaning: "Whether the first set of an empty volume is told too",
        },
    ],
    demands: Demands::One(MEANS),
};

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// The actions of a volume run one at a time: one that hangs keeps the others waiting.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// How long `debounce` may be.
pub(super) const DEBOUNCE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// The actions, with the default debounce.
pub(super) fn on_change(node: Node, problems: &mut Problems) -> Option<OnChange> {
    let mut read: Vec<(Place, Action)> = Vec::new();
    for node in list(node, "on_change", problems)? {
        let place = node.place;
        let Some(action) = read_action(node, problems) else { continue };
        if let Some((other, _)) = read.iter().find(|(_, other)| other.means == action.means) {
            let text = format!("`{action}` stands already in line {}; remove one of them", other.line);
            problems.add(place, text);
        }
        read.push((place, action));
    }
    let actions = read.into_iter().map(|(_, action)| action).collect();
    Some(OnChange { actions, ..OnChange::default() })
}

/// Notes the files that would be touched inside a volume; `place` is that of the list.
///
/// What a volume holds belongs to its publisher, and a touched file there would be taken for one
/// of the set's.
pub(super) fn refuse_touching<'a>(
    on_change: &OnChange,
    place: Place,
    volumes: impl Iterator<Item = &'a Path>,
    problems: &mut Problems,
) {
    for volume in volumes {
        for path in on_change.touched().filter(|path| path.starts_with(volume)) {
            let (path, volume) = (path.display(), volume.display());
            problems.add(place, format!("`touch: {path}` lies in the volume {volume}; touch a file outside of it"));
        }
    }
}

fn read_action(node: Node, problems: &mut Problems) -> Option<Action> {
    let place = node.place;
    if let Kind::Text(word) = &node.kind {
        let known = nearest(word, MEANS.iter().copied()).unwrap_or("http");
        problems.add(place, format!("`{word}` is not an action; write it as `{known}: {}`", example(known)));
        return None;
    }
    let mut fields = Fields::of(node, &ACTION, problems)?;
    let first = fields.take("first").and_then(|node| boolean(&node, "first", problems)).unwrap_or(false);
    let mut means = MEANS.iter().filter_map(|kind| Some((*kind, fields.take(kind)?))).collect::<Vec<_>>().into_iter();
    let Some((kind, node)) = means.next() else {
        problems.add(place, format!("this action tells nobody; add one of {}", MEANS.join(", ")));
        return None;
    };
    if let Some((other, node)) = means.next() {
        let fix = "make each an entry of its own";
        problems.add(node.place, format!("one action has both `{kind}` and `{other}`; {fix}"));
        return None;
    }
    let timeout = fields.take("timeout");
    let (pid_file, process) = (fields.take("pid_file"), fields.take("process"));
    let mut misplaced = |key: &str, node: &Option<Node>, of: &str| {
        if let Some(node) = node {
            problems.add(node.place, format!("`{key}` belongs to {of}, not to `{kind}`; remove it"));
        }
    };
    if kind != "signal" {
        misplaced("pid_file", &pid_file, "`signal`");
        misplaced("process", &process, "`signal`");
    }
    if !matches!(kind, "http" | "exec") {
        misplaced("timeout", &timeout, "`http` and `exec`");
    }
    let time = |default, problems: &mut Problems| match &timeout {
        Some(node) => duration(node, "timeout", TIMEOUT, problems),
        None => Some(default),
    };
    let means = match kind {
        "http" => {
            let hook = text(&node, "http", problems).map(|text| text.parse());
            let hook = hook.and_then(|hook| problems.parsed(node.place, "http", hook));
            let timeout = time(HTTP_TIMEOUT, problems);
            Means::Http { hook: hook?, timeout: timeout? }
        }
        "signal" => {
            let signal = signal(&node, problems);
            let to = recipient(node.place, pid_file, process, problems);
            Means::Signal { signal: signal?, to: to? }
        }
        "exec" => {
            let command = command(node, problems);
            let timeout = time(EXEC_TIMEOUT, problems);
            let (program, arguments) = command?;
            Means::Exec { program, arguments, timeout: timeout? }
        }
        _ => Means::Touch { path: file_path(&node, "touch", "the file to touch", problems)? },
    };
    Some(Action { means, first })
}

fn signal(node: &Node, problems: &mut Problems) -> Option<Signal> {
    let name = text(node, "signal", problems)?;
    problems.parsed(node.place, "signal", name.parse())
}

fn recipient(
    place: Place,
    pid_file: Option<Node>,
    process: Option<Node>,
    problems: &mut Problems,
) -> Option<Recipient> {
    match (pid_file, process) {
        (Some(node), None) => {
            file_path(&node, "pid_file", "the file with the process's number", problems).map(Recipient::PidFile)
        }
        (None, Some(node)) => {
            let name = text(&node, "process", problems)?.parse::<ProcessName>();
            problems.parsed(node.place, "process", name).map(Recipient::Process)
        }
        (Some(_), Some(node)) => {
            problems.add(node.place, "a signal goes to `pid_file` or to `process`, not to both; remove one of them");
            None
        }
        (None, None) => {
            let fix = "add `process` with the name of its program, or `pid_file` with the path of a file";
            problems.add(place, format!("this signal goes to nobody; {fix}"));
            None
        }
    }
}

fn command(node: Node, problems: &mut Problems) -> Option<(PathBuf, Vec<String>)> {
    let place = node.place;
    let nodes = match node.kind {
        Kind::List(nodes) => nodes,
        Kind::Text(line) => {
            let words: Vec<&str> = line.split_whitespace().collect();
            let fix = format!("write the program and its arguments as a list: `[{}]`", words.join(", "));
            problems.add(place, format!("`exec` takes a list, for no shell takes the command apart; {fix}"));
            return None;
        }
        other => {
            problems.add(place, format!("`exec` takes a list, not {}; write `{}`", other.noun(), example("exec")));
            return None;
        }
    };
    let mut nodes = nodes.iter();
    let Some(first) = nodes.next() else {
        problems.add(place, format!("`exec` is empty; write `{}`", example("exec")));
        return None;
    };
    let program = file_path(first, "exec", "the program", problems);
    let arguments: Vec<Option<String>> = nodes.map(|node| argument(node, problems)).collect();
    Some((program?, arguments.into_iter().collect::<Option<_>>()?))
}

fn argument(node: &Node, problems: &mut Problems) -> Option<String> {
    let argument = match &node.kind {
        // What YAML reads as something else may have been written otherwise: `no`, `1.10`, `~`.
        Kind::Text(argument) => Some(argument.clone()),
        Kind::Integer(number) => Some(number.to_string()),
        other => {
            let fix = "put it in quotes to pass it as it is written";
            problems.add(node.place, format!("an argument of `exec` is a text, not {}; {fix}", other.noun()));
            None
        }
    }?;
    if argument.contains('\0') {
        problems.add(node.place, "an argument may not hold a NUL character; remove it");
        return None;
    }
    Some(argument)
}

/// An absolute path that can be a file's.
fn file_path(node: &Node, key: &str, what: &str, problems: &mut Problems) -> Option<PathBuf> {
    let path = absolute_path(node, key, what, problems)?;
    if path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control) {
        problems.add(node.place, format!("`{key}`: a path may not hold control characters"));
        return None;
    }
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        problems.add(node.place, format!("`{key}: {}` is a directory; write the path of {what}", path.display()));
        return None;
    }
    Some(path)
}

fn example(kind: &str) -> &'static str {
    match kind {
        "signal" => "HUP",
        "exec" => "[/usr/sbin/nginx, -s, reload]",
        "touch" => "/run/reload",
        _ => "http://127.0.0.1:8080/-/reload",
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::yaml;
    use super::*;

    fn read(text: &str) -> Result<OnChange, String> {
        let mut problems = Problems::default();
        let read = on_change(yaml::parse(text).unwrap(), &mut problems);
        let shown: Vec<String> = problems
            .0
            .iter()
            .map(|problem| format!("{}:{}: {}", problem.place.line, problem.place.column, problem.text))
            .collect();
        read.filter(|_| shown.is_empty()).ok_or_else(|| shown.join("\n"))
    }

    #[test]
    fn reads_everything_it_documents() {
        let read = read(
            "
- http: http://127.0.0.1:8080/-/reload
- {http: 'http://[::1]:9000/', timeout: 2s, first: true}
- signal: HUP
  pid_file: /run/nginx.pid
- {signal: SIGUSR1, process: nginx}
- exec: [/usr/sbin/nginx, -s, reload, 7]
- {exec: [/bin/true], timeout: 1m}
- touch: /run/secrets/.reload
",
        )
        .unwrap();
        assert_eq!(read.debounce, Duration::from_millis(200));
        let shown: Vec<String> = read.actions.iter().map(ToString::to_string).collect();
        let expected = [
            "http 127.0.0.1:8080/-/reload",
            "http [::1]:9000/",
            "signal HUP to /run/nginx.pid",
            "signal USR1 to nginx",
            "exec /usr/sbin/nginx",
            "exec /bin/true",
            "touch /run/secrets/.reload",
        ];
        assert_eq!(shown, expected);
        let first: Vec<bool> = read.actions.iter().map(|action| action.first).collect();
        assert_eq!(first, [false, true, false, false, false, false, false]);
        let timeouts: Vec<u64> = read
            .actions
            .iter()
            .filter_map(|action| match &action.means {
                Means::Http { timeout, .. } | Means::Exec { timeout, .. } => Some(timeout.as_secs()),
                _ => None,
            })
            .collect();
        assert_eq!(timeouts, [5, 2, 30, 60]);
        let Means::Exec { program, arguments, .. } = &read.actions[4].means else { panic!("{read:?}") };
        assert_eq!(
            (program.as_path(), &arguments[..]),
            (Path::new("/usr/sbin/nginx"), &["-s", "reload", "7"].map(str::to_owned)[..])
        );
    }

    #[test]
    fn the_table_says_how_long_an_action_may_take() {
        let Some(Setting { without: Without::Says(words), .. }) = ACTION.keys.iter().find(|key| key.name == "timeout")
        else {
            panic!("no words")
        };
        let shown = |time| humantime::format_duration(time);
        let (http, exec) = (shown(HTTP_TIMEOUT), shown(EXEC_TIMEOUT));
        assert!(words.starts_with(&format!("{http} for `http`, {exec} for `exec`;")), "{words}");
    }

    #[test]
    fn nobody_is_told_by_an_empty_list() {
        assert_eq!(read("[]").unwrap(), OnChange::default());
    }

    #[test]
    fn names_place_and_fix_of_every_kind_of_mistake() {
        for (text, expected) in [
            ("http: http://127.0.0.1/", "1:1: `on_change` takes a list (each entry starts with `- `), not a mapping"),
            (
                "- 7",
                "1:3: an action is a mapping of keys to values, not a number; write `key: value` lines; known are http, signal, exec, touch, timeout, process, pid_file, first",
            ),
            ("- tuch", "1:3: `tuch` is not an action; write it as `touch: /run/reload`"),
            (
                "- htpp: http://127.0.0.1/",
                "1:3: unknown key `htpp` in an action; did you mean `http`?\n1:3: this action tells nobody; add one of http, signal, exec, touch",
            ),
            (
                "- {signal: HUP, proces: nginx}",
                "1:17: unknown key `proces` in an action; did you mean `process`?\n1:12: this signal goes to nobody; add `process` with the name of its program, or `pid_file` with the path of a file",
            ),
            ("- first: true", "1:3: this action tells nobody; add one of http, signal, exec, touch"),
            ("- http:", "1:3: this action tells nobody; add one of http, signal, exec, touch"),
            (
                "- {http: 'http://127.0.0.1/', exec: [/bin/true]}",
                "1:37: one action has both `http` and `exec`; make each an entry of its own",
            ),
            (
                "- {touch: /run/a, timeout: 5s}",
                "1:28: `timeout` belongs to `http` and `exec`, not to `touch`; remove it",
            ),
            ("- {exec: [/bin/true], process: a}", "1:32: `process` belongs to `signal`, not to `exec`; remove it"),
            (
                "- {http: 'http://127.0.0.1/', pid_file: /run/a}",
                "1:41: `pid_file` belongs to `signal`, not to `http`; remove it",
            ),
            (
                "- http: http://10.0.0.1/",
                "1:9: `http`: `10.0.0.1` is not this host's loopback; use 127.0.0.1, [::1] or localhost: what listens there is in this pod",
            ),
            (
                "- {http: 'http://127.0.0.1/', timeout: 5}",
                "1:40: `timeout: 5` has no unit; write a number with a unit, such as `60s`, `5m` or `1h30m`",
            ),
            ("- {http: 'http://127.0.0.1/', timeout: 1ms}", "1:40: `timeout` takes a time from 100ms to 10m"),
            ("- {http: 'http://127.0.0.1/', first: maybe}", "1:38: `first` takes `true` or `false`"),
            (
                "- {signal: hup, process: a}",
                "1:12: `signal`: `hup` is no signal to tell an application by; did you mean `HUP`?",
            ),
            (
                "- {signal: 1, process: a}",
                "1:12: `signal`: `1` is no signal to tell an application by; known are HUP, INT, QUIT, KILL, USR1, USR2, ALRM, TERM, CONT, WINCH",
            ),
            (
                "- {signal: HUP, process: a, pid_file: /run/a}",
                "1:26: a signal goes to `pid_file` or to `process`, not to both; remove one of them",
            ),
            (
                "- {signal: HUP, process: /usr/sbin/nginx}",
                "1:26: `process`: a process is found by the name of its program, without the path; write `nginx`",
            ),
            (
                "- {signal: HUP, pid_file: nginx.pid}",
                "1:27: `pid_file: nginx.pid` is relative; write the absolute path of the file with the process's number",
            ),
            (
                "- exec: nginx -s reload",
                "1:9: `exec` takes a list, for no shell takes the command apart; write the program and its arguments as a list: `[nginx, -s, reload]`",
            ),
            ("- exec: {a: b}", "1:9: `exec` takes a list, not a mapping; write `[/usr/sbin/nginx, -s, reload]`"),
            ("- exec: []", "1:9: `exec` is empty; write `[/usr/sbin/nginx, -s, reload]`"),
            ("- exec: [nginx, -s]", "1:10: `exec: nginx` is relative; write the absolute path of the program"),
            (
                "- exec: [/bin/echo, true]",
                "1:21: an argument of `exec` is a text, not true or false; put it in quotes to pass it as it is written",
            ),
            ("- exec: [/bin/echo, \"a\\0b\"]", "1:21: an argument may not hold a NUL character; remove it"),
            ("- touch: /run/", "1:10: `touch: /run/` is a directory; write the path of the file to touch"),
            ("- touch: /run/../a", "1:10: `touch: /run/../a` holds `..`; write the path without it"),
            ("- touch: \"/run/a\\nb\"", "1:10: `touch`: a path may not hold control characters"),
            (
                "- touch: /run/a\n- {touch: /run/a, first: true}",
                "2:3: `touch /run/a` stands already in line 1; remove one of them",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_volume_is_not_touched() {
        let on_change = read("[{touch: /v/a/x}, {touch: /v/ab}, {touch: /v}]").unwrap();
        let mut problems = Problems::default();
        let volumes = [Path::new("/v/a"), Path::new("/w")];
        refuse_touching(&on_change, Place { line: 3, column: 5 }, volumes.into_iter(), &mut problems);
        let [problem] = &problems.0[..] else { panic!("{}", problems.0.len()) };
        assert_eq!(problem.text, "`touch: /v/a/x` lies in the volume /v/a; touch a file outside of it");
    }
}
