# What CPython makes of a text: digests, an outline, its words, and a paragraph set anew.
import base64, binascii, collections, fractions, hashlib, json, re, sys, textwrap

data = sys.stdin.buffer.read()
text = data.decode("utf-8", "replace")
words = re.findall(r"[A-Za-z][A-Za-z']*", text)
counts = collections.Counter(word.lower() for word in words)
heads = [(len(marks), title.strip()) for marks, title in re.findall(r"^(#+)[ \t]*(.*)$", text, re.MULTILINE)]
links = re.findall(r"\[([^\]\n]*)\]\(([^)\s]*)\)", text)
mean = fractions.Fraction(sum(map(len, words)), max(len(words), 1))
print(json.dumps({
    "digests": [getattr(hashlib, name)(data).hexdigest() for name in ("md5", "sha1", "sha256", "blake2b")],
    "crc": binascii.crc32(data),
    "base64": base64.b85encode(data).decode()[:200],
    "heads": heads,
    "links": links,
    "most": sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:25],
    "mean": [mean.numerator, mean.denominator, float(mean)],
}, indent=1))
for paragraph in re.split(r"\n\s*\n", text):
    print(textwrap.fill(paragraph, 60))
    print()
