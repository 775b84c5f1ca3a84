//! Deserializes the values of settings.

use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

use super::duration;
use super::words::Words;

/// Deserializes a setting, if there is one. Errors do not show the value: it may have been
/// intended for another field.
pub(super) fn value<'de, D: Deserializer<'de>, T: Value>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer)
}

/// The type of a setting.
pub(super) trait Value: Sized {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error>;
}

macro_rules! plain {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Self>, D::Error> {
                Deserialize::deserialize(deserializer)
            }
        })+
    };
}

plain!(bool, u8, u16, usize);

/// A text that is not repeated in errors: a password of digits without quotes is a
/// number to most formats, and serde would show it.
impl Value for String {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "expected a text in quotes")]
        enum Text {
            Text(String),
        }
        let text = Option::deserialize(deserializer)?;
        Ok(text.map(|Text::Text(text)| text))
    }
}

impl<T: Words> Value for T {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let Some(word) = <String as Value>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let wrong = || de::Error::custom(format!("{} is one of {}", T::NAME, T::all()));
        T::of(&word).map(Some).ok_or_else(wrong)
    }
}

/// `"1h30m"`, or a number of seconds.
impl Value for Duration {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(
            untagged,
            expecting = "a duration (\"300ms\", \"1h30m\", or a number of seconds)"
        )]
        enum Time {
            Seconds(f64),
            Text(String),
        }
        let parsed = match Option::<Time>::deserialize(deserializer)? {
            None => return Ok(None),
            Some(Time::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Some(Time::Text(text)) => duration::parse(&text),
        };
        match parsed {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(de::Error::custom(format!("expected {}", duration::WANTED))),
        }
    }
}
