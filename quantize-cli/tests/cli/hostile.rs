//! Names that would steer a terminal.

use super::*;

#[test]
fn names_and_recipes_do_not_speak_to_the_terminal() {
    const NAME: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}.weight";
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source.safetensors"), folder.path().join("out.safetensors"));
    write(&source, &[&(NAME, &[64, 64])], unchanged);
    let rule = ["--rule", "*\u{9b}*=q8_0"];
    let mut outputs = vec![
        quantize(&[&["convert", text(&source), text(&out), "--to", "q4_0", "-q"], &rule[..]].concat()),
        quantize(&["convert", text(&source), text(&out), "--to", "q4_0", "--rule", "x=keep"]),
        quantize(&["inspect", text(&out)]),
        quantize(&["verify", text(&out)]),
        quantize(&["compare", text(&source), text(&out)]),
        quantize(&["compare", text(&source), text(&out), "--max-error", "0"]),
    ];
    let codes: Vec<_> = outputs.iter().map(|output| output.status.code().unwrap()).collect();
    assert_eq!(codes, [0, 2, 0, 0, 0, 1]);
    let mut damaged = fs::read(&out).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&out, damaged).unwrap();
    outputs.push(quantize(&["verify", text(&out)]));
    write(&source, &[&("another", &[64, 64])], unchanged);
    outputs.push(quantize(&["compare", text(&source), text(&out)]));
    for output in outputs {
        let printed = stdout(&output) + &stderr(&output);
        assert!(printed.len() > 10);
        let bad = printed.chars().find(|&c| c != '\n' && (c.is_control() || c == '\u{202e}'));
        assert_eq!(bad, None, "{printed:?}");
    }
}
