"""Small specs in which each fusion fires: rows and heads of awkward sizes, every option of an op."""

from __future__ import annotations

from archc.compiler import standard_rules

_ADD = "x = x + linear(x, d) as a\n"
_SANDWICH = "x = x + NORM(linear(x, d) as a, SET) as m\nx = x + linear(NORM(x, SET) as n, d) as out"
_ADD_TWO = "x = x + linear(x, d) as a + linear(x, d) as b\n"
_SPLIT = """
  h = rms_norm(x, 1e-6) as n
  q = split_heads(linear(h, HEADS * SIZE) as q_proj, HEADS)
  k = split_heads(linear(h, KV * SIZE) as k_proj, KV)
  v = split_heads(linear(h, KV * SIZE) as v_proj, KV)
"""
_ATTEND = "x = x + linear(merge_heads(attention(q, k, v, mask = causal)), d) as o_proj"
_ROPE = _SPLIT + "q, k = rotate(silu(q), rope(ROPE)), rotate(silu(k), rope(ROPE))\n" + _ATTEND
_ROPE_QKV = _SPLIT + "q, k = rotate(q, rope(ROPE)), rotate(k, rope(ROPE))\n" + _ATTEND
_NORM_ROPE_QKV = _SPLIT + """
  q = rotate(rms_norm(q, 1e-6 NORM) as qn, rope(ROPE))
  k = rotate(rms_norm(k, 1e-6 NORM) as kn, rope(ROPE))
  """ + _ATTEND
_QKV_NORM_ROPE_QKV = _NORM_ROPE_QKV.replace(_ATTEND, "v = rms_norm(v, 1e-6 NORM) as vn\n" + _ATTEND)
_NORM_QKV = _SPLIT + "q, k = rms_norm(q, 1e-6 NORM) as qn, rms_norm(k, 1e-6 NORM) as kn\n" + _ATTEND
_NORM_ROPE = _NORM_ROPE_QKV.replace("rms_norm(q,", "rms_norm(silu(q),").replace(
    "rms_norm(k,", "rms_norm(silu(k),"
)
_Q_ROPE = _SPLIT + "q = rotate(q, rope(ROPE))\n" + _ATTEND
_Q_NORM_ROPE = _Q_ROPE.replace("rotate(q,", "rotate(rms_norm(q, 1e-6 NORM) as qn,")
_ROPE_NORM_QKV = _SPLIT + """
  q = rms_norm(rotate(q, rope(ROPE)), 1e-6 NORM) as qn
  k = rms_norm(rotate(k, rope(ROPE)), 1e-6 NORM) as kn
  """ + _ATTEND
_ROPE_NORM = _ROPE_NORM_QKV.replace("rotate(q,", "rotate(silu(q),").replace("rotate(k,", "rotate(silu(k),")
# Magnitudes of the rotation count, as they do not where a norm comes before it.
_MAGNIFIED = ", scaling = yarn(factor = 2, original = 8, attention_factor = 1.5)"
_POSITION_SCALE = _SPLIT + """
  factor = 1 + 0.1 * log(1 + upcast(positions(q)))
  q = cast_like(SCALED, q)
  """ + _ATTEND
_ROW_NORM_ROPE_QKV = """
  h = rms_norm(x, 1e-6) as n
  q = rms_norm(linear(h, HEADS * SIZE) as q_proj, 1e-6 NORM) as qn
  k = rms_norm(linear(h, KV * SIZE) as k_proj, 1e-6 NORM) as kn
  q, k = rotate(split_heads(q, HEADS), rope(ROPE)), rotate(split_heads(k, KV), rope(ROPE))
  v = split_heads(linear(h, KV * SIZE) as v_proj, KV)
""" + _ATTEND
_LATENT_ROPE_QKV = """
  h = rms_norm(x, 1e-6) as n
  q_nope, q_pe = split(split_heads(linear(h, HEADS * (NOPE + TURNED)) as q_proj, HEADS), [NOPE, TURNED])
  c, k_pe = split(linear(h, RANK + TURNED) as kv_proj, [RANK, TURNED])
  c = split_heads(rms_norm(c, 1e-6 NORM) as kv_norm, 1)
  q = concat(q_nope, rotate(q_pe, rope(ROPE)))
  latent = concat(c, rotate(split_heads(k_pe, 1), rope(ROPE)))
  x = x + linear(merge_heads(q), d) as q_out + linear(merge_heads(latent), d) as kv_out
"""
_LATENT_ROPE = _LATENT_ROPE_QKV.replace("(linear(h, HEADS", "(linear(silu(h), HEADS")
_GATED = "x = x + linear(ACT(linear(x, F) as gate) * linear(x, F) as up, d) as down"
_BIASED = "x = linear(ACT(linear(x, F, bias = true) as up), d) as down"
_TURNS = """
  h = linear(x, WIDTH) as joined
  g, u = split_interleaved(h, 2)
  x = x + linear(GATED, d) as down
"""
_CLAMPED = _TURNS.replace("(h, 2)\n", "(h, 2)\n  gate = minimum(g, LIMIT)\n").replace(
    "GATED", "(maximum(minimum(u, LIMIT), -LIMIT) + 1) * gate * sigmoid(1.7 * gate)"
)


def _loop(norm: str, addends: str = "linear(h, d) as a") -> str:
    """Layers whose adds meet the next layer's norm: before the first there is nothing to add."""
    return f"for i in 0..2 as layers {{\n h = {norm}\n x = x + {addends}\n }}"


def _heads(body: str, heads: int, kv: int, size: int, rope: str, norm: str = "") -> str:
    """Statements with their numbers: heads, values of a head, settings of the rotation and of the norms."""
    numbers = {"HEADS": heads, "KV": kv, "SIZE": size, "ROPE": f"theta = 100{rope}", "NORM": norm}
    for name, value in numbers.items():
        body = body.replace(name, str(value))
    return body


def _values(body: str, size: int) -> str:
    """Statements with values that are narrower or wider than keys."""
    return body.replace("KV * SIZE) as v_proj", f"KV * {size}) as v_proj")


def _latent(body: str, heads: int, nope: int, turned: int, rank: int, rope: str = "", norm: str = "") -> str:
    """Statements with their numbers: of heads of queries, of the latent, and of what is rotated of both."""
    numbers = {"HEADS": heads, "NOPE": nope, "TURNED": turned, "RANK": rank}
    for name, value in (numbers | {"ROPE": f"theta = 100{rope}", "NORM": norm}).items():
        body = body.replace(name, str(value))
    return body


def _gated(activation: str, width: int) -> str:
    return _GATED.replace("ACT", activation).replace("F", str(width))


def _clamped(width: int, limit: str) -> str:
    return _CLAMPED.replace("WIDTH", str(2 * width)).replace("LIMIT", limit)


def _biased(activation: str, width: int) -> str:
    return _BIASED.replace("ACT", activation).replace("F", str(width))


# Fusions of a spec's own: a function written for them, a vector whose gradient is its own, words of C++, an
# operand that is called as a table of rotations is, operands that no gradient reads.
_OWN = """
fuse tanh_gated(gate_up) {
  g, u = split(gate_up, 2)
  y = tanh(g) * u
  return y
}

fuse scaled_tanh(x, double) {
  y = tanh(x * double)
  return y
}

fuse waves(cos, angle) {
  y = cos * sin(angle) + silu(cos)
  return y
}

fuse scaled_turns(gate_up, scale) {
  g, u = split_interleaved(gate_up, 2)
  row = silu(g * scale)
  du = row * u
  return du
}

fuse silu_sum(gate_up, shift) {
  g, u = split(gate_up, 2)
  y = silu(g) + u + shift
  return y
}
"""
_OWN += """
fuse mixed_norm(x, z, share, scale; eps) {
  s = share * x + z * scale
  y = rms_norm(s, eps)
  return s, y
}

fuse gated_heads(o, gate, by) {
  y = o * unsqueeze(softplus(gate)) * unsqueeze(by)
  return y
}

fuse decay(a, dt, by) {
  wide = upcast(a)
  y = -exp(by) * softplus(wide + upcast(dt)) * mean(wide)
  return y
}

fuse decayed(x, like, by) {
  y = cast_like(upcast(x) * by, like) * like * sum(like)
  return y
}

fuse gated_norm(pair, like, u, v; eps, offset) {
  o, other = split(pair, 2)
  y = silu(like) * layer_norm(o, eps, offset = offset) + exp(sum(u * v)) * other
  return y
}
"""
_DECAY = """
  a = upcast(linear(x, WIDTH) as a)
  decays = -exp(parameter([WIDTH], wide = true) as by) * softplus(a + upcast(parameter([WIDTH]) as dt))
  decays = decays * mean(a)
  x = linear(cast_like(merge_heads(split_heads(decays, 3)), x), d) as b"""
_DECAYED = """
  a = linear(x, d) as a
  x = linear(cast_like(upcast(x) * parameter([d], wide = true) as by, a) * a * sum(a), d) as b"""
_TWO = "linear(h, d) as a + linear(h, d) as b"
_MIXED = """
  s = parameter([1]) as share * linear(x, d) as a + x * parameter([d]) as scale
  x = s + linear(rms_norm(s, 1e-6) as n, d) as b"""
_GATED_HEADS = """
  o = split_heads(linear(x, HEADS * SIZE) as a, HEADS)
  o = o * unsqueeze(softplus(linear(x, HEADS) as gate)) * unsqueeze(parameter([HEADS]) as by)
  x = linear(merge_heads(o), d) as b"""
_GATED_NORM = """
  o, other = split(linear(x, 2 * d) as pair, 2)
  share = exp(sum(parameter([12]) as u * parameter([12]) as v))
  x = linear(silu(linear(x, d) as gate) * (layer_norm(o, 1e-5 NORM) as n) + share * other, d) as b"""

# rule, or rule/variant -> the width of the rows and statements in which the rule fires
CASES = {
    "rms_norm": (60, "x = rms_norm(x, 1e-6) as n"),
    "rms_norm/block": (64, "x = rms_norm(x, 1e-6, cast = after) as n"),
    "rms_norm/offset": (100, "x = rms_norm(x, 1e-5, offset = 1) as n"),
    "rms_norm/wide": (9000, "x = rms_norm(x, 1e-6, offset = 1) as n"),
    "rms_norm/unweighted": (7, "x = rms_norm(x, 1e-5, weight = false)"),
    "add_rms_norm": (60, _ADD + "x = x + linear(rms_norm(x, 1e-6) as n, d) as out"),
    "add_rms_norm/unweighted": (100, _ADD + "x = x + linear(rms_norm(x, 1e-6, weight = false), d) as out"),
    "add_rms_norm/wide": (16384, _ADD + "x = x + linear(rms_norm(x, 1e-6) as n, d) as out"),
    "add_rms_norm/none": (60, _loop("rms_norm(x, 1e-6, offset = 1) as n")),
    "add_add_rms_norm": (100, _ADD_TWO + "x = x + linear(rms_norm(x, 1e-5, offset = 1) as n, d) as out"),
    "add_add_rms_norm/none": (60, _loop("rms_norm(x, 1e-6) as n", _TWO)),
    "rms_norm_add_rms_norm": (60, _SANDWICH.replace("NORM", "rms_norm").replace("SET", "1e-6, offset = 1")),
    "rms_norm_add_rms_norm/block": (64, _SANDWICH.replace("NORM", "rms_norm").replace("SET", "1e-6")),
    "rms_norm_add_rms_norm/unweighted": (
        100,
        _SANDWICH.replace("NORM", "rms_norm").replace("SET", "1e-5, weight = false"),
    ),
    "rms_norm_add_rms_norm/wide": (5000, _SANDWICH.replace("NORM", "rms_norm").replace("SET", "1e-6")),
    "rms_norm_add_rms_norm/none": (
        60,
        _loop("rms_norm(x, 1e-6) as n", "rms_norm(linear(h, d) as a, 1e-6) as m"),
    ),
    "rms_norm_add": (60, "x = x + rms_norm(linear(x, d) as a, 1e-6, offset = 1) as n"),
    "rms_norm_add/unweighted": (100, "x = rms_norm(linear(x, d) as a, 1e-6, weight = false) + x"),
    "layer_norm": (60, "x = layer_norm(x, 1e-5) as n"),
    "layer_norm/block": (64, "x = layer_norm(x, 1e-5) as n"),
    "layer_norm/unbiased": (100, "x = layer_norm(x, 1e-5, bias = false, offset = 1) as n"),
    "layer_norm/unweighted": (7, "x = layer_norm(x, 1e-5, weight = false) as n"),
    "layer_norm/wide": (10240, "x = layer_norm(x, 1e-5, weight = false, bias = false)"),
    "layer_norm/bare": (60, "x = layer_norm(x, 1e-5, weight = false, bias = false)"),
    "add_layer_norm": (60, _ADD + "x = x + linear(layer_norm(x, 1e-5) as n, d) as out"),
    "add_layer_norm/unbiased": (
        100,
        _ADD + "x = x + linear(layer_norm(x, 1e-5, bias = false) as n, d) as out",
    ),
    "add_layer_norm/wide": (26000, _ADD + "x = x + linear(layer_norm(x, 1e-5) as n, d) as out"),
    "add_layer_norm/none": (60, _loop("layer_norm(x, 1e-5) as n")),
    "add_add_layer_norm": (100, _ADD_TWO + "x = x + linear(layer_norm(x, 1e-5, offset = 1) as n, d) as out"),
    "add_add_layer_norm/none": (60, _loop("layer_norm(x, 1e-5, bias = false) as n", _TWO)),
    "layer_norm_add_layer_norm": (60, _SANDWICH.replace("NORM", "layer_norm").replace("SET", "1e-5")),
    "layer_norm_add_layer_norm/unbiased": (
        100,
        _SANDWICH.replace("NORM", "layer_norm").replace("SET", "1e-5, bias = false, offset = 1"),
    ),
    "layer_norm_add_layer_norm/wide": (9000, _SANDWICH.replace("NORM", "layer_norm").replace("SET", "1e-5")),
    "layer_norm_add_layer_norm/none": (
        60,
        _loop("layer_norm(x, 1e-5) as n", "layer_norm(linear(h, d) as a, 1e-5) as m"),
    ),
    "layer_norm_add": (60, "x = layer_norm(linear(x, d) as a, 1e-5) as n + x"),
    "layer_norm_add/bare": (100, "x = x + layer_norm(linear(x, d) as a, 1e-5, weight = false, bias = false)"),
    "rope": (60, _heads(_ROPE, 5, 5, 12, "")),
    "rope/partial": (60, _heads(_ROPE, 3, 1, 10, ", width = 6")),
    "rope/interleaved": (60, _heads(_ROPE, 6, 3, 10, ", width = 4, pairing = interleaved")),
    "q_rope": (60, _heads(_Q_ROPE, 6, 3, 10, ", width = 4")),
    "q_norm_rope": (60, _heads(_Q_NORM_ROPE, 5, 1, 12, "", ", offset = 1")),
    "rope_qkv": (60, _heads(_ROPE_QKV, 5, 1, 12, "")),
    "rope_qkv/block": (64, _heads(_ROPE_QKV, 4, 4, 8, "")),
    "rope_qkv/partial": (60, _heads(_values(_ROPE_QKV, 5), 6, 3, 12, ", width = 4")),
    "rope_qkv/interleaved": (60, _heads(_ROPE_QKV, 3, 3, 14, ", width = 10, pairing = interleaved")),
    "qk_norm_rope": (60, _heads(_NORM_ROPE, 5, 5, 12, "")),
    "qk_norm_rope/interleaved": (60, _heads(_NORM_ROPE, 6, 3, 10, ", pairing = interleaved", ", offset = 1")),
    "qk_norm_rope/no_eps": (60, _heads(_NORM_ROPE.replace("1e-6 NORM", "0"), 5, 5, 12, "")),
    "qk_norm_rope/unweighted": (60, _heads(_NORM_ROPE, 3, 1, 8, "", ", weight = false")),
    "qk_norm_rope_qkv": (60, _heads(_NORM_ROPE_QKV, 5, 1, 12, "", ", offset = 1")),
    "qk_norm_rope_qkv/block": (64, _heads(_NORM_ROPE_QKV, 4, 2, 8, "")),
    "qk_norm_rope_qkv/interleaved": (
        60,
        _heads(_values(_NORM_ROPE_QKV, 18), 6, 3, 10, ", pairing = interleaved"),
    ),
    "qk_norm_rope_qkv/unweighted": (60, _heads(_NORM_ROPE_QKV, 3, 3, 14, "", ", weight = false")),
    "qk_norm_rope_qkv/partial": (60, _heads(_NORM_ROPE_QKV, 6, 2, 11, ", width = 6", ", offset = 1")),
    "qk_norm_rope_qkv/groups": (300, _heads(_NORM_ROPE_QKV, 40, 1, 250, "", ", offset = 1")),
    "qkv_norm_rope_qkv": (
        60,
        _heads(_values(_QKV_NORM_ROPE_QKV, 18), 6, 3, 10, ", width = 4, pairing = interleaved"),
    ),
    "qkv_norm_rope_qkv/unweighted": (
        64,
        _heads(_QKV_NORM_ROPE_QKV, 4, 2, 8, "").replace(
            "(v, 1e-6 ", "(v, 1e-6, cast = after, weight = false"
        ),
    ),
    "qk_norm_qkv": (60, _heads(_values(_NORM_QKV, 5), 5, 1, 12, "", ", offset = 1")),
    "qk_norm_qkv/block": (64, _heads(_NORM_QKV, 4, 2, 8, "")),
    "rope_qk_norm": (60, _heads(_ROPE_NORM, 5, 5, 12, "")),
    "rope_qk_norm/partial": (60, _heads(_ROPE_NORM, 3, 1, 10, ", width = 6")),
    "rope_qk_norm/no_eps": (
        60,
        _heads(_ROPE_NORM.replace("1e-6 NORM", "0"), 6, 3, 10, ", pairing = interleaved"),
    ),
    "rope_qk_norm_qkv": (60, _heads(_ROPE_NORM_QKV, 5, 1, 12, "", ", offset = 1")),
    "rope_qk_norm_qkv/block": (64, _heads(_ROPE_NORM_QKV, 4, 2, 8, _MAGNIFIED)),
    "rope_qk_norm_qkv/unweighted": (
        60,
        _heads(_ROPE_NORM_QKV, 3, 3, 14, ", pairing = interleaved", ", weight = false"),
    ),
    "row_norm_rope_qkv": (60, _heads(_ROW_NORM_ROPE_QKV, 5, 1, 12, "", ", offset = 1")),
    "row_norm_rope_qkv/block": (64, _heads(_ROW_NORM_ROPE_QKV, 4, 2, 8, "")),
    "row_norm_rope_qkv/interleaved": (60, _heads(_ROW_NORM_ROPE_QKV, 6, 3, 10, ", pairing = interleaved")),
    "row_norm_rope_qkv/unweighted": (
        60,
        _heads(_ROW_NORM_ROPE_QKV, 3, 3, 14, ", width = 10", ", weight = false"),
    ),
    "row_norm_rope_qkv/partial": (60, _heads(_ROW_NORM_ROPE_QKV, 5, 1, 12, ", width = 8", ", offset = 1")),
    "latent_rope": (60, _latent(_LATENT_ROPE, 5, 6, 4, 20)),
    "latent_rope/interleaved": (
        60,
        _latent(_LATENT_ROPE, 3, 7, 6, 9, ", pairing = interleaved", ", offset = 1"),
    ),
    "latent_rope_qkv": (60, _latent(_LATENT_ROPE_QKV, 5, 7, 6, 20, ", pairing = interleaved")),
    "latent_rope_qkv/block": (64, _latent(_LATENT_ROPE_QKV, 4, 8, 8, 32, ", pairing = interleaved")),
    "latent_rope_qkv/halves": (60, _latent(_LATENT_ROPE_QKV, 6, 10, 4, 24, "", ", offset = 1")),
    "latent_rope_qkv/unweighted": (60, _latent(_LATENT_ROPE_QKV, 3, 3, 2, 17, "", ", weight = false")),
    "position_scale": (
        60,
        _heads(_POSITION_SCALE, 5, 1, 12, "").replace("SCALED", "q * unsqueeze(unsqueeze(factor))"),
    ),
    "position_scale/blocks": (
        64,
        _heads(_POSITION_SCALE, 18, 2, 128, "").replace("SCALED", "unsqueeze(unsqueeze(factor)) * q"),
    ),
    "swiglu": (60, _gated("silu", 33)),
    "swiglu/blocks": (60, _gated("silu", 2100)),
    "geglu_tanh": (60, _gated("gelu_tanh", 100)),
    "geglu": (60, _gated("gelu", 64)),
    "reglu": (60, _gated("relu", 33)),
    "clamped_swiglu": (60, _clamped(33, "1.5")),
    "clamped_swiglu/block": (64, _clamped(64, "0.7")),
    "clamped_swiglu/blocks": (60, _clamped(2100, "1.25")),
    "bias_gelu_tanh": (60, _biased("gelu_tanh", 900)),
    "bias_gelu": (60, _biased("gelu", 500)),
    "bias_gelu/blocks": (60, _biased("gelu", 4096)),
    "bias_silu": (60, _biased("silu", 300)),
    "bias_relu": (60, _biased("relu", 1100)),
    "relu_squared": (60, "x = linear(square(relu(linear(x, 33) as up)), d) as down"),
    "tanh_gated": (60, _gated("tanh", 33)),
    "waves": (
        60,
        "a = linear(x, 33) as a\nb = linear(x, 33) as b\nx = linear(a * sin(b) + silu(a), d) as down",
    ),
    "scaled_tanh": (
        60,
        "x = x + linear(tanh(linear(x, 300) as up * parameter(shape = [300]) as scale), d) as down",
    ),
    "scaled_turns": (
        60,
        _TURNS.replace("GATED", "silu(g * parameter(shape = [300]) as scale) * u").replace("WIDTH", "600"),
    ),
    "silu_sum": (
        60,
        "g, u = split(linear(x, 66) as joined, 2)\n"
        "x = x + linear(silu(g) + u + parameter(shape = [33]) as shift, d) as down",
    ),
    "mixed_norm": (60, _MIXED),
    "gated_heads": (60, _heads(_GATED_HEADS, 5, 5, 12, "")),
    "gated_heads/block": (64, _heads(_GATED_HEADS, 4, 4, 16, "")),
    "decay": (60, _DECAY.replace("WIDTH", "33")),
    "decay/block": (60, _DECAY.replace("WIDTH", "192")),
    "decayed": (60, _DECAYED),
    "gated_norm": (60, _GATED_NORM.replace("NORM", "")),
    "gated_norm/block": (64, _GATED_NORM.replace("NORM", ", offset = 1, bias = false")),
}
# every rule with a kernel -> its family
RULES = {
    rule.name: rule.family for rule in standard_rules() if rule.family not in ("attention", "key_choice")
}
RULES |= dict.fromkeys(("tanh_gated", "waves", "scaled_tanh", "scaled_turns", "silu_sum"), "pointwise")
RULES |= dict.fromkeys(("mixed_norm", "gated_heads", "decay", "decayed", "gated_norm"), "row")
FIRST = [name for name in CASES if "/" not in name]  # one case of each rule


def rule_of_case(name: str) -> str:
    """The rule that a case is about."""
    return name.split("/")[0]


def spec_of_case(name: str) -> str:
    """The text of a spec whose model `a` has the fused op of a case."""
    width, body = CASES[name]
    forward = f"x = embedding(tokens, 50, d) as wte\n{body}\nreturn linear(x, 50) as head"
    return f"{_OWN}\narch A(d = {width}) {{ forward(tokens: [B, T]) {{ {forward} }} }}\nmodel a = A()"
