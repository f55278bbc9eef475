//! Pre-tokenizers by name: how byte-level BPE splits a text before it merges bytes.
//!
//! A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`). The name stands for regular
//! expressions, which split a text one after the other: matches and what is between them become
//! pieces. Here they are written as in the `tokenizer.json` of the models concerned, where those
//! differ from what llama.cpp approximates.

/// What a pre-tokenizer's name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The names, which mean the same.
    pub(super) names: &'static [&'static str],
    /// The expressions that split a text, in order.
    pub(super) patterns: &'static [&'static str],
    /// Whether texts are normalized to NFC before.
    pub(super) nfc: bool,
    /// Whether a piece that is a token becomes that token, whatever the merges are.
    pub(super) whole: bool,
    /// Whether texts begin with the token for the beginning, unless the file says otherwise.
    pub(super) begin: bool,
    /// Whether decoded texts lose spaces before punctuation, in programs that do so.
    pub(super) tidy: bool,
}

impl Row {
    const fn nfc(self) -> Self {
        Self { nfc: true, ..self }
    }

    const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    const fn begin(self) -> Self {
        Self { begin: true, ..self }
    }

    const fn untidy(self) -> Self {
        Self { tidy: false, ..self }
    }
}

const fn row(names: &'static [&'static str], patterns: &'static [&'static str]) -> Row {
    Row { names, patterns, nfc: false, whole: false, begin: false, tidy: true }
}

/// Returns what a name stands for.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// Returns the pre-tokenizers that split by these expressions.
pub(super) fn split_by(patterns: &[&str]) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.patterns == patterns)
}

/// The name of the pre-tokenizer of files that do not name one.
pub(super) const DEFAULT: &str = "default";

/// GPT-2.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: digits by threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: digits one by one.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: marks belong to letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: capitals begin words.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: as GPT-4o, without contractions, digits one by one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek 3, after digits and ideographs: ASCII marks begin words.
const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Chinese and Japanese.
const IDEOGRAPHS: &str = r"[一-龥぀-ゟ゠-ヿ]+";
/// A digit.
pub(super) const DIGIT: &str = r"\p{N}";
/// Digits by threes.
const DIGITS: &str = r"\p{N}{1,3}";
/// Lines, and line ends.
pub(super) const LINES: &str = r"[^\n]+|[\n]+";
/// BLOOM: everything between spaces and marks.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// Punctuation, as the crate `tokenizers` knows it.
pub(super) const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";

/// All of them. When a GGUF file is written, the first name of the first row that fits is used.
pub(super) const ROWS: &[Row] = &[
    row(&["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert", "jais", "exaone4", "jina-v1-en", "jina-v2-code", "roberta-bpe"], &[GPT2]),
    row(&["trillion", "granite-docling"], &[GPT2]).untidy(),
    row(&["mpt", "olmo"], &[GPT2]).nfc(),
    row(&["smollm"], &[DIGIT, GPT2]).untidy(),
    row(&["refact", "starcoder", "codeshell", "exaone", "minerva-7b", "mellum2"], &[DIGIT, GPT2]),
    row(&["command-r"], &[DIGIT, GPT2]).nfc().untidy(),
    row(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], &[LLAMA3]).whole().begin(),
    row(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[LLAMA3]),
    row(&["glm4", "glm5"], &[LLAMA3]).whole(),
    row(&["qwen2", "kormo", "f2llmv2"], &[QWEN2]).nfc().untidy(),
    row(&["megrez"], &[QWEN2]).nfc(),
    row(&["hunyuan", "deepseek-r1-qwen", "grok-2", "solar-open"], &[QWEN2]).untidy(),
    row(&["stablelm2"], &[QWEN2]),
    row(&["qwen35"], &[QWEN35]).nfc().untidy(),
    row(&["laguna"], &[LINES, QWEN2]).untidy(),
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]).untidy(),
    row(&["granite-embed-multi-97m"], &[GPT4O]).whole().untidy(),
    row(&["tekken"], &[TEKKEN]).whole().begin().untidy(),
    row(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[DIGITS, IDEOGRAPHS, DEEPSEEK]).untidy(),
    row(&["spark2_5"], &[DIGITS, IDEOGRAPHS, r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##, DIGIT]).untidy(),
    row(&["deepseek-llm"], &[r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+"]).untidy(),
    row(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT]).untidy(),
    row(&["youtu"], &[r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"]).whole().untidy(),
    row(&["afmoe"], &[r"\p{N}+", r"(?=(\p{N}{3})+(?!\p{N}))", r"[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+", DEEPSEEK]).untidy(),
    row(&["tiny_aya", "cohere2moe"], &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O]).untidy(),
    row(&["kimi-k2"], &[r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]).untidy(),
    row(&["bailingmoe", "bailingmoe2", "llada-moe"], &[r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"]).untidy(),
    row(&["seed-coder"], &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"]).untidy(),
    row(&["exaone-moe"], &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"]),
    row(&["minicpm5"], &[DIGITS, r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]).whole(),
    row(&["jais-2"], &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"]),
    row(&["ufakzeka"], &[r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]).untidy(),
    row(&["falcon"], &[PUNCTUATION, GPT2, r"[0-9][0-9][0-9]"]),
    row(&["superbpe"], &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]).untidy(),
    row(&["bloom", "gpt3-finnish"], &[BLOOM]),
    row(&["poro-chat"], &[BLOOM]).untidy(),
    row(&["viking"], &[BLOOM, DIGIT]).untidy(),
    row(&["chameleon"], &[r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", DIGIT, r"[\p{P}!-/:-@\[-`{-~]", GPT2]).begin().untidy(),
    row(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
];
