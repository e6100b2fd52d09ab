//! Sizes in bytes, as people write them.

use crate::{Error, Result};

/// Parses `512MB`, `1.5 GiB`, `800k` or plain bytes. Units are powers of 1024, as memory is counted.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] when it is not a size.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong =
        || Error::invalid(format!("{text:?} is not a size: write bytes or a number with KB, MB, GB or TB, like 512MB"));
    let text_trimmed = text.trim();
    let split = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if bytes > i64::MAX as f64 {
        return Err(Error::invalid(format!("{text:?} is more than there can be: use at most {}TB", i64::MAX >> 40)));
    }
    Ok(bytes as u64)
}

/// Prints bytes as people read them, in powers of 1024: `1.5 GB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let exponent = (bytes.max(1).ilog2() / 10).min(4);
    if exponent == 0 {
        return format!("{bytes} B");
    }
    format!("{:.1} {}", bytes as f64 / (1u64 << (10 * exponent)) as f64, UNITS[exponent as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        assert_eq!(parse_size("512MB").unwrap(), 512 << 20);
        assert_eq!(parse_size("1.5 GiB").unwrap(), 3 << 29);
        assert_eq!(parse_size("7").unwrap(), 7);
        assert_eq!(format_size(3 << 29), "1.5 GB");
        assert_eq!(format_size(12), "12 B");
        for text in ["", "x", "1.2.3GB", "-1", "5 parsecs", "1e9"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }
}
