//! Caches the traits of statements by their text: an application sends few texts, and each of
//! them many times.

use super::residue::Traits;

/// The number of texts that are remembered at most.
const SLOTS: usize = 16;

/// The longest text that is remembered.
const LONGEST: usize = 1024;

/// The texts that were read last.
#[derive(Default)]
pub(super) struct Texts([Option<Text>; SLOTS]);

struct Text {
    text: Box<[u8]>,
    conforming: Option<bool>,
    traits: Traits,
}

impl Texts {
    /// Returns the [traits](Traits::of) of a text.
    pub(super) fn traits(&mut self, text: &[u8], conforming: Option<bool>) -> Traits {
        let slot = &mut self.0[slot(text)];
        let known = slot
            .as_ref()
            .filter(|known| *known.text == *text && known.conforming == conforming);
        if let Some(known) = known {
            return known.traits;
        }
        let traits = Traits::of(text, conforming);
        if text.len() <= LONGEST {
            *slot = Some(Text {
                text: text.into(),
                conforming,
                traits,
            });
        }
        traits
    }
}

/// Returns the only slot in which a text is cached.
fn slot(text: &[u8]) -> usize {
    let byte = |at: usize| text.get(at).copied().unwrap_or_default().into();
    let bytes: [usize; 2] = [byte(text.len() / 2), byte(text.len().wrapping_sub(1))];
    (text.len() ^ bytes[0] ^ bytes[1] << 1) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_the_same_slot_replaces_the_one_before() {
        let mut texts = Texts::default();
        let (plain, other) = (b"select 1", b"unlock 1");
        assert_eq!(slot(plain), slot(other));
        for _ in 0..2 {
            for text in [&plain[..], other, b"select pg_advisory_lock(1)", b""] {
                for conforming in [None, Some(false), Some(true)] {
                    let again = texts.traits(text, conforming);
                    assert_eq!(again, Traits::of(text, conforming));
                    assert_eq!(again, texts.traits(text, conforming));
                }
            }
        }
    }

    #[test]
    fn text_is_read_anew_once_literals_are() {
        let mut texts = Texts::default();
        let text = br"select '\', pg_advisory_lock(1) --'";
        assert!(texts.traits(text, Some(true)).leaves_state);
        assert!(!texts.traits(text, Some(false)).leaves_state);
        assert!(texts.traits(text, None).leaves_state);
    }

    #[test]
    fn long_text_is_not_kept() {
        let mut texts = Texts::default();
        let long = vec![b' '; LONGEST + 1];
        texts.traits(&long, Some(true));
        assert!(texts.0.iter().all(Option::is_none));
    }
}
