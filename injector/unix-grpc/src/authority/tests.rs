use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Sorted as HPACK's code sorts them: by length, then by symbol (RFC 7541, appendix B).
const SYMBOLS: [(u32, &str); 9] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
];

fn huffman(text: &str) -> Vec<u8> {
    let mut bits = Vec::new();
    for wanted in text.chars() {
        let (mut code, mut before) = (0_u32, 5);
        let (code, length) = SYMBOLS
            .iter()
            .find_map(|(length, symbols)| {
                code <<= length - before;
                before = *length;
                let found = symbols.chars().position(|symbol| symbol == wanted);
                let first = code;
                code += u32::try_from(symbols.chars().count()).unwrap();
                found.map(|index| (first + u32::try_from(index).unwrap(), *length))
            })
            .unwrap();
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    }
    bits.chunks(8)
        .map(|bits| (0..8).fold(0, |byte, bit| byte << 1 | u8::from(bits.get(bit).copied().unwrap_or(true))))
        .collect()
}

fn integer(first: u8, prefix: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    value -= most;
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// Text, and whether it is in Huffman code.
type Coded = (String, bool);

fn text((text, is_huffman): &Coded) -> Vec<u8> {
    let bytes = if *is_huffman { huffman(text) } else { text.clone().into_bytes() };
    [integer(if *is_huffman { 0x80 } else { 0 }, 7, bytes.len()), bytes].concat()
}

fn mapped((text, is_huffman): &Coded) -> Coded {
    (text.replace(['/', '%'], "-"), *is_huffman)
}

#[derive(Debug, Clone)]
enum Name {
    Index(usize),
    Text(Coded),
}

#[derive(Debug, Clone)]
enum Field {
    Indexed(usize),
    SizeUpdate(usize),
    /// The first byte's pattern and the length of its prefix.
    Literal((u8, u32), Name, Coded),
}

impl Field {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Indexed(index) => integer(0x80, 7, *index),
            Self::SizeUpdate(size) => integer(0x20, 5, *size),
            Self::Literal((pattern, prefix), Name::Index(index), value) => {
                [integer(*pattern, *prefix, *index), text(value)].concat()
            }
            Self::Literal((pattern, _), Name::Text(name), value) => [vec![*pattern], text(name), text(value)].concat(),
        }
    }
}

#[derive(Debug, Clone)]
struct Headers {
    padding: Option<Vec<u8>>,
    priority: Option<[u8; 5]>,
    before: Vec<Field>,
    /// Its representation, its name, its value.
    authority: ((u8, u32), Name, Coded),
    after: Vec<Field>,
}

impl Headers {
    fn fields(&self, repaired: bool) -> Vec<Vec<u8>> {
        let (kind, name, value) = self.authority.clone();
        let value = if repaired { mapped(&value) } else { value };
        let all = self.before.iter().cloned().chain([Field::Literal(kind, name, value)]).chain(self.after.clone());
        all.map(|field| field.bytes()).collect()
    }

    fn frame(&self, repaired: bool) -> Vec<u8> {
        let (mut flags, mut payload) = (0x4, Vec::new());
        if let Some(padding) = &self.padding {
            flags |= 0x8;
            payload.push(u8::try_from(padding.len()).unwrap());
        }
        if let Some(priority) = self.priority {
            flags |= 0x20;
            payload.extend(priority);
        }
        payload.extend(self.fields(repaired).concat());
        payload.extend(self.padding.iter().flatten());
        frame(HEADERS, flags, &payload)
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

#[derive(Debug, Clone)]
enum Frame {
    Headers(Headers),
    /// Anything else, also a HEADERS that is too long to be looked into.
    Other(u8, Vec<u8>),
}

impl Frame {
    fn bytes(&self, repaired: bool) -> Vec<u8> {
        match self {
            Self::Headers(headers) => headers.frame(repaired),
            Self::Other(kind, payload) => frame(*kind, 0x4, payload),
        }
    }
}

fn any_kind() -> impl Strategy<Value = (u8, u32)> {
    select(&[(0x40, 6), (0x00, 4), (0x10, 4)][..])
}

fn any_coded(pattern: &'static str) -> impl Strategy<Value = Coded> {
    (pattern, any::<bool>())
}

fn any_field() -> impl Strategy<Value = Field> {
    let name = prop_oneof![
        (2..200_usize).prop_map(Name::Index),
        any_coded(":?[a-z][a-z/%-]{0,20}")
            .prop_filter("another name", |name| name.0 != ":authority")
            .prop_map(Name::Text)
    ];
    prop_oneof![
        (1..200_usize).prop_map(Field::Indexed),
        (0..5000_usize).prop_map(Field::SizeUpdate),
        (any_kind(), name, any_coded("[ -;A-Za-z/%]{0,200}"))
            .prop_map(|(kind, name, value)| Field::Literal(kind, name, value)),
    ]
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        Just(Name::Index(1)),
        any::<bool>().prop_map(|huffman| Name::Text((":authority".to_owned(), huffman)))
    ];
    let value = any_coded("[a-zA-Z0-9/%._~@:+$-]{0,40}|(/[a-z.-]{1,60}){1,8}|(%2F[a-z.-]{1,60}){1,8}");
    (
        proptest::option::of(vec(any::<u8>(), 0..=255)),
        proptest::option::of(any::<[u8; 5]>()),
        vec(any_field(), 0..6),
        (any_kind(), name, value),
        vec(any_field(), 0..6),
    )
        .prop_map(|(padding, priority, before, authority, after)| Headers {
            padding,
            priority,
            before,
            authority,
            after,
        })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        3 => any_headers().prop_map(Frame::Headers),
        3 => ((2..=12_u8).prop_union(0..=0), vec(any::<u8>(), 0..300)).prop_map(|(kind, bytes)| Frame::Other(kind, bytes)),
        1 => (any_headers(), Just(vec![b'/'; HEADERS_MAX])).prop_map(|(headers, rest)| {
            Frame::Other(HEADERS, [headers.fields(false).concat(), rest].concat())
        }),
    ]
}

fn stream(frames: &[Frame], repaired: bool) -> Vec<u8> {
    PREFACE.iter().copied().chain(frames.iter().flat_map(|frame| frame.bytes(repaired))).collect()
}

/// Gives its bytes in pieces, and has nothing to give before each of them.
struct Pieces {
    bytes: VecDeque<u8>,
    lengths: std::iter::Cycle<std::vec::IntoIter<usize>>,
    is_due: bool,
}

impl Pieces {
    fn new(bytes: &[u8], lengths: Vec<usize>) -> Self {
        Self { bytes: bytes.iter().copied().collect(), lengths: lengths.into_iter().cycle(), is_due: false }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.is_due = !self.is_due;
        if self.is_due {
            return Poll::Pending;
        }
        let length = self.lengths.next().unwrap().min(buffer.remaining()).min(self.bytes.len());
        for byte in self.bytes.drain(..length) {
            buffer.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

/// What is read when the client's bytes come in pieces of `lengths`, with a buffer of `room`.
fn read(bytes: &[u8], lengths: Vec<usize>, room: usize) -> Vec<u8> {
    let mut repaired = Repaired::new(Pieces::new(bytes, lengths));
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut all, mut room) = (Vec::new(), vec![0; room]);
    loop {
        let mut buffer = ReadBuf::new(&mut room);
        match Pin::new(&mut repaired).poll_read(&mut context, &mut buffer) {
            Poll::Pending => continue,
            Poll::Ready(result) => result.unwrap(),
        }
        if buffer.filled().is_empty() {
            return all;
        }
        all.extend_from_slice(buffer.filled());
    }
}

#[test]
fn the_code_of_these_tests_is_that_of_the_standard() {
    // RFC 7541, C.4.1, C.6.1, and the name.
    assert_eq!(huffman("www.example.com"), [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
    assert_eq!(
        huffman("https://www.example.com"),
        [0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3]
    );
    assert_eq!(huffman(":authority"), [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f]);
    assert_eq!(integer(0x20, 5, 1337), [0x3f, 0x9a, 0x0a]);
}

#[test]
fn what_go_clients_send_becomes_acceptable() {
    let headers = |value: &str, coded| Headers {
        padding: None,
        priority: None,
        before: vec![Field::Indexed(3), Field::Indexed(6)],
        authority: ((0x40, 6), Name::Index(1), (value.to_owned(), coded)),
        after: vec![Field::Literal((0x40, 6), Name::Index(4), ("/v2.KeyManagementService/Encrypt".to_owned(), true))],
    };
    for coded in [false, true] {
        let sent = stream(&[Frame::Headers(headers("%2Frun%2Fkms.sock", coded))], false);
        let wanted = stream(&[Frame::Headers(headers("-2Frun-2Fkms.sock", coded))], false);
        assert_eq!(read(&sent, vec![usize::MAX], 4096), wanted);
    }
}

#[test]
fn a_client_of_something_else_is_passed_on() {
    let request = b"GET /%2f HTTP/1.1\r\nHost: /\r\n\r\n\0\0\x04\x01\x04\0\0\0\x01\x41\x02//";
    assert_eq!(read(request, vec![7], 64), request);
    assert_eq!(read(b"PRI *", vec![7], 64), b"PRI *");
}

#[test]
fn frames_without_payload_are_followed() {
    let frames = [
        Frame::Other(4, vec![]),
        Frame::Other(HEADERS, vec![]),
        Frame::Other(HEADERS, [&[0x41, 0x01][..], b"/"].concat()),
    ];
    let sent = stream(&frames, false);
    let mut wanted = sent.clone();
    *wanted.last_mut().unwrap() = b'-';
    for length in 1..sent.len() {
        assert_eq!(read(&sent, vec![length], 4096), wanted);
    }
}

#[test]
fn whatever_lies_whole_in_one_read_is_given_on_in_one() {
    let headers = frame(HEADERS, 0x4, &[&[0x41, 0x03][..], b"/%/"].concat());
    let sent = [&PREFACE[..], &headers, &frame(0, 0, &[b'/'; 9000]), &headers].concat();
    let mut repaired = Repaired::new(&sent[..]);
    let mut room = vec![0; sent.len()];
    let mut buffer = ReadBuf::new(&mut room);
    let read = Pin::new(&mut repaired).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut buffer);
    assert!(matches!(read, Poll::Ready(Ok(()))));
    assert_eq!(buffer.filled().len(), sent.len());
    assert_eq!(repaired.held.bytes.capacity(), 0);
    assert!(room.ends_with(b"---"));
}

proptest! {
    #[test]
    fn the_authority_is_repaired_and_nothing_else(
        frames in vec(any_frame(), 0..8),
        lengths in vec(1..=64_usize, 1..20),
        room in select(&[1, 9, 64, 300, 16_384, 65_536][..]),
    ) {
        prop_assert_eq!(read(&stream(&frames, false), lengths, room), stream(&frames, true));
    }

    #[test]
    fn a_stream_that_breaks_off_is_given_on_as_far_as_it_came(
        frames in vec(any_frame(), 1..4),
        cut in any::<prop::sample::Index>(),
        lengths in vec(1..=64_usize, 1..20),
    ) {
        let (sent, wanted) = (stream(&frames, false), stream(&frames, true));
        let cut = cut.index(sent.len());
        let read = read(&sent[..cut], lengths, 300);
        prop_assert_eq!(read.len(), cut);
        // Of the frame that broke off, nothing is known.
        let mut whole = PREFACE.len();
        for frame in &frames {
            let end = whole + frame.bytes(false).len();
            if end <= cut {
                whole = end;
            } else {
                break;
            }
        }
        let whole = whole.min(cut);
        prop_assert_eq!(&read[..whole], &wanted[..whole]);
        prop_assert_eq!(&read[whole..], &sent[whole..cut]);
    }

    #[test]
    fn fields_that_end_too_early_stay_as_they_are(headers in any_headers(), cut in any::<prop::sample::Index>()) {
        let until_value = headers.before.len() + 1;
        let fields: Vec<u8> = headers.fields(false).into_iter().take(until_value).flatten().collect();
        let payload = &fields[..cut.index(fields.len())];
        let sent = [&PREFACE[..], &frame(HEADERS, 0x4, payload)].concat();
        prop_assert_eq!(read(&sent, vec![usize::MAX], 65_536), sent);
    }

    #[test]
    fn garbage_passes_with_its_length(
        has_preface in any::<bool>(),
        pieces in vec(prop_oneof![
            vec(any::<u8>(), 0..40),
            (0..2_u8, any::<u8>(), vec(any::<u8>(), 0..60)).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload)),
            (any::<u8>(), vec(any::<u8>(), 0..60)).prop_map(|(flags, rest)| {
                frame(HEADERS, flags & !0x28, &[&[0x41, 0x80 | u8::try_from(rest.len()).unwrap()], &rest[..]].concat())
            }),
        ], 0..12),
        lengths in vec(1..=64_usize, 1..20),
        room in 1..300_usize,
    ) {
        let garbage = pieces.concat();
        let sent = if has_preface { [&PREFACE[..], &garbage].concat() } else { garbage };
        let read = read(&sent, lengths, room);
        prop_assert_eq!(read.len(), sent.len());
        if !sent.starts_with(PREFACE) {
            prop_assert_eq!(read, sent);
        }
    }
}
