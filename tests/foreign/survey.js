// What a JavaScript engine makes of `text`: code blocks, sentences sorted by length, words, and numbers.
const blocks = [...text.matchAll(/^```(.*)\n([\s\S]*?)^```/gm)].map(([, kind, body]) => ({ kind, lines: body.split("\n").length }));
const prose = text.replace(/^```[\s\S]*?^```/gm, "");
const sentences = prose.split(/(?<=[.!?])\s+/).map((it) => it.replaceAll(/\s+/g, " ").trim()).filter((it) => it);
const words = new Map();
for (const [word] of prose.toLowerCase().matchAll(/[a-z]+/g)) words.set(word, (words.get(word) ?? 0) + 1);
const most = [...words].sort(([a, many], [b, few]) => few - many || (a < b ? -1 : 1)).slice(0, 25);
let hash = 14695981039346656037n;
for (const c of text) hash = ((hash ^ BigInt(c.codePointAt(0))) * 1099511628211n) % 2n ** 64n;
const lengths = sentences.map((it) => it.length);
const mean = lengths.reduce((sum, it) => sum + it, 0) / lengths.length;
const spread = Math.sqrt(lengths.reduce((sum, it) => sum + (it - mean) ** 2, 0) / lengths.length);
const longest = sentences.toSorted((a, b) => b.length - a.length || (a < b ? -1 : 1)).slice(0, 5);
console.log(JSON.stringify({ blocks, most, hash: hash.toString(36), mean, spread, longest }, null, 1));
console.log([...prose].reverse().join("").normalize("NFC"));
