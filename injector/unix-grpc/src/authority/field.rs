//! `:authority` within the payload of a HEADERS frame (RFC 9113, 6.2), which holds fields in HPACK (RFC 7541).

use std::ops::Range;

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Stream that is depended on, and weight.
const PRIORITY_LENGTH: usize = 5;

/// Index of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
const AUTHORITY_PLAIN: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// Turns `/` and `%` of `:authority` into `-`. A payload that is malformed, or that breaks off before the
/// value's end, is left as it is: the pseudo-headers come first, and no client splits them.
pub(super) fn repair(flags: u8, payload: &mut [u8]) {
    if let Some(Text { range, huffman }) = authority(flags, payload) {
        let value = &mut payload[range];
        if huffman { repair_huffman(value) } else { repair_plain(value) }
    }
}

fn repair_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(byte, b'/' | b'%') {
            *byte = b'-';
        }
    }
}

/// The code is canonical: the symbols of each length form one range, so that length is all that needs to
/// be known of those that stay. Ends at padding, or at a symbol no authority holds.
fn repair_huffman(value: &mut [u8]) {
    let mut bit = 0;
    loop {
        let (byte, shift) = (bit / 8, bit % 8);
        // What lies behind the end is padding, which is of ones.
        let at = |offset: usize| u32::from(value.get(byte + offset).copied().unwrap_or(0xff));
        let next = ((at(0) << 16 | at(1) << 8 | at(2)) >> (8 - shift)) & 0xffff;
        let length = match next {
            0x0000..0x5000 => 5,
            0x5000..0xb800 => 6,
            0xb800..0xf800 => 7,
            0xf800..0xfe00 => 8,
            0xfe00..0xff40 => 10,
            0xff40..0xffa0 => 11,
            0xffa0..0xffc0 => 12,
            0xffc0..0xfff0 => 13,
            _ => return,
        };
        if bit + length > value.len() * 8 {
            return;
        }
        if length == 6 {
            // To 0x16, which is `-`.
            let flip: u16 = match next >> 10 {
                0x18 => 0x18 ^ 0x16, // `/`
                0x15 => 0x15 ^ 0x16, // `%`
                _ => 0,
            };
            let [first, second] = (flip << (10 - shift)).to_be_bytes();
            value[byte] ^= first;
            if second != 0 {
                value[byte + 1] ^= second;
            }
        }
        bit += length;
    }
}

/// A string literal (RFC 7541, 5.2): where its bytes lie.
struct Text {
    range: Range<usize>,
    huffman: bool,
}

/// Where the value of `:authority` lies in `payload`, where that is spelled out there.
fn authority(flags: u8, payload: &[u8]) -> Option<Text> {
    let mut fields = Fields { bytes: payload, position: 0 };
    if flags & PADDED != 0 {
        let padding = usize::from(fields.byte()?);
        fields.bytes = payload.get(..payload.len().checked_sub(padding)?)?;
    }
    if flags & PRIORITY != 0 {
        fields.skip(PRIORITY_LENGTH)?;
    }
    // Each turn takes one representation (RFC 7541, 6).
    loop {
        let first = *fields.bytes.get(fields.position)?;
        let name = match first {
            // Indexed, name and value: `:authority` from the dynamic table was repaired when it came.
            0x80.. => {
                // There is no index 0.
                (fields.integer(7)? != 0).then_some(())?;
                continue;
            }
            // With incremental indexing.
            0x40.. => fields.integer(6)?,
            // Size update of the dynamic table.
            0x20.. => {
                fields.integer(5)?;
                continue;
            }
            // Never indexed, and without indexing.
            _ => fields.integer(4)?,
        };
        let found = match name {
            AUTHORITY => true,
            0 => {
                let Text { range, huffman } = fields.text()?;
                fields.bytes[range] == *if huffman { AUTHORITY_HUFFMAN } else { AUTHORITY_PLAIN }
            }
            _ => false,
        };
        let value = fields.text()?;
        if found {
            return Some(value);
        }
    }
}

/// Fields in HPACK, read from the left. `None` from any step: they end too early, or are malformed.
struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Fields<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    /// Passes over so many bytes, and tells where they are.
    fn skip(&mut self, length: usize) -> Option<Range<usize>> {
        let range = self.position..self.position.checked_add(length)?;
        self.bytes.get(range.clone())?;
        self.position = range.end;
        Some(range)
    }

    /// An integer that begins in the low `prefix` bits (RFC 7541, 5.1).
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        // No index and no length within a frame needs more than three.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<Text> {
        let huffman = self.bytes.get(self.position)? & 0x80 != 0;
        let length = self.integer(7)?;
        Some(Text { range: self.skip(length)?, huffman })
    }
}
