#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/TARGET/NAME: small files that once did harm, or reach a part of a reader that mutations do not.

The ordinary tests run every one of them, and scripts/fuzz begins with them. Run again, it writes the same bytes.
What a campaign finds is minimised and put beside them, under a name that says what it was.
"""
import json
import os
import struct
import zlib

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def put(target, name, data):
    folder = os.path.join(ROOT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as out:
        out.write(data)


# safetensors

def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="U8", shape=(0,), offsets=(0, 0)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


one = {"a": entry("F32", (2, 2), (0, 16)), "b": entry("BOOL", (3,), (16, 19))}
for target in ("safetensors", "lightning"):
    put(target, "two_tensors", safetensors({"__metadata__": {"k": "v"}, **one}, bytes(19)))
    put(target, "stride_overflow", safetensors({"": entry("U8", (0, 2**62, 4), (0, 0))}))
    put(target, "count_overflow", safetensors({"a": entry("F32", (2**32, 2**32), (0, 0))}))
    put(target, "float_shape", safetensors(b'{"a":{"dtype":"U8","shape":[1e300],"data_offsets":[0,0]}}'))
    put(target, "name_not_utf8", safetensors(b'{"\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
    put(target, "deep_config", safetensors({"__metadata__": {"config": '{"depth":' + "[" * 90 + "]" * 90 + "}"}, "a": entry()}))
    put(target, "deep_header", safetensors(b'{"a":{"shape":' + b"[" * 200))
    put(target, "hole", safetensors({"a": entry("U8", (1,), (1, 2))}, bytes(2)))
    put(target, "overlap", safetensors({"a": entry("U8", (2,), (0, 2)), "b": entry("U8", (2,), (1, 3))}, bytes(3)))
    put(target, "long_name", safetensors({"a." * 600: entry()}))
    put(target, "nul_in_header", safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}\0{'))
    put(target, "checksums_no_object", safetensors({"__metadata__": {"dm2.crc32c": "[1]"}, "a": entry()}))
    put(target, "checksums_short", safetensors({"__metadata__": {"dm2.crc32c": '{"":0}'}, "a": entry()}))
    put(target, "checksums_negative", safetensors({"__metadata__": {"dm2.crc32c": '{"":-1,"a":1e99}'}, "a": entry()}))
    put(target, "foreign_types", safetensors({"a": entry("F8_E4M3", (3,), (0, 3)), "b": entry("C64", (1,), (3, 11))}, bytes(11)))
put("lightning", "training_mark", safetensors(
    {"__metadata__": {"training": '{"epoch":1e300,"optimizer":"lion"}'},
     "raw/a": entry("F32", (1,), (0, 4)), "ema/a": entry("F32", (1,), (4, 8))}, bytes(8)))
put("lightning", "class_names", safetensors({"__metadata__": {"class_names": '["a",1]'}, "a": entry()}))


# pickles and zip archives

def text(s):
    data = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(data)) + data


def integer(n):
    return b"\x8a\x08" + struct.pack("<q", n)


def globe(module, name):
    return b"c" + module + b"\n" + name + b"\n"


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def dct(*items):
    return b"}(" + b"".join(items) + b"u"


def tensor(storage=b"HalfStorage", key="0", count=6, offset=0, shape=(2, 2), strides=(2, 1)):
    identity = tup(text("storage"), globe(b"torch", storage), text(key), text("cpu"), integer(count)) + b"Q"
    view = integer(offset) + tup(*map(integer, shape)) + tup(*map(integer, strides))
    return (globe(b"torch._utils", b"_rebuild_tensor_v2") + b"(" + identity + view + b"\x89" +
            globe(b"collections", b"OrderedDict") + b")R" + b"tR")


def archive(*entries):
    out = directory = b""
    for name, data in entries:
        head = struct.pack("<HHHHHIII", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data)) + struct.pack("<H", len(name))
        directory += b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHHII", 0, 0, 0, 0, 0, len(out)) + name
        out += b"PK\3\4" + head + struct.pack("<H", 0) + name + data
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return out + directory + b"PK\5\6" + end


PROTO = b"\x80\2"
weights = dct(text("w"), tensor(), text("n"), tensor(b"LongStorage", "1", 1, 0, (), ()))
averages = b"](" + tensor() + tensor(b"LongStorage", "1", 1, 0, (), ()) + b"e"
many = b"".join(b"\x8c\2" + bytes((97 + i // 26, 97 + i % 26)) + b"h\1" for i in range(300))
callbacks = b"".join(text(str(i)) + b"}h\1}" + text("w") + b"h\2sss" for i in range(600))
pickles = {
    "many_averages": dct(text("state_dict"), b"}" + text("w") + tensor() + b"q\2s", text("ema" + " " * 197) + b"q\1" + b"N",
                         text("callbacks"), b"}" + callbacks),
    "weights": weights,
    "checkpoint": dct(text("state_dict"), weights, text("pytorch-lightning_version"), text("2"), text("callbacks"),
                      dct(text("EMA"), dct(text("ema_weights"), averages)), text("hyper_parameters"),
                      dct(text("depth"), b"K\3", text("img_size"), b"](K\x10K\x10e", text("ssm_cfg"), dct(text("expand"), b"K\2"))),
    "averaged_model": dct(text("n_averaged"), tensor(b"LongStorage", "1", 1, 0, (), ()), text("module.w"), tensor()),
    "two_sets": dct(text("model.w"), tensor(), text("model_ema.module.w"), tensor()),
    "beside": dct(text("model"), weights, text("model_ema"), weights),
    "list": b"](" + tensor() + tensor() + b"e",
    "callbacks_share_a_dict": dct(text("state_dict"), weights, text("callbacks"), b"}q\1(" + text("a") + b"K\1u0}(" + many + b"u"),
    "names_share_a_tensor": tensor(b"ByteStorage", "0", 1, 0, (1,) * 16, (1,) * 16) + b"q\1" + b"0}(" + many + b"u",
    "list_shares_a_tensor": tensor() + b"q\1" + b"0](" + b"h\1" * 1500 + b"e",
    "holds_itself": b"]q\1h\1a",
    "doubling": b"}(" + text("hyper_parameters") + b"]q\1" + b"".join(
        b"0](h" + bytes((i - 1, 104, i - 1)) + b"eq" + bytes((i,)) for i in range(2, 40)) + b"u",
    "refused_not_utf8": dct(text("state_dict"), weights, text("hyper_parameters"), dct(text("depth"), globe(b"os", b"sy\xffst"))),
    "refused_key_not_utf8": dct(text("state_dict"), weights, text("hyper_parameters"), dct(globe(b"os", b"sy\x8est"), b"K\1")),
    "nul_in_name": dct(text("\0name"), dct(text("w"), tensor(), b"K\7", tensor())),
    "huge_strides": tensor(b"ByteStorage", "0", 4, 0, (2, 1, 2, 1), (2, 2**62, 1, 2**62)),
    "stride_of_zero": tensor(b"ByteStorage", "0", 1, 0, (2**40,), (0,)),
    "offset_past_the_end": tensor(b"ByteStorage", "0", 4, 2**62, (1,), (1,)),
    "negative_shape": tensor(b"ByteStorage", "0", 4, 0, (-1,), (1,)),
    "parameter": globe(b"torch._utils", b"_rebuild_parameter") + tup(tensor(), b"\x89", globe(b"collections", b"OrderedDict") + b")R") + b"R",
    "namespace": dct(text("hyper_parameters"), globe(b"argparse", b"Namespace") + b")\x81" + dct(text("depth"), b"K\3") + b"b"),
    "keywords": globe(b"collections", b"OrderedDict") + b")" + dct(text("a"), b"N") + b"\x92",
}
for name, body in pickles.items():
    put("pickle", name, PROTO + body + b".")
    if name in ("weights", "checkpoint", "huge_strides", "names_share_a_tensor", "nul_in_name", "refused_key_not_utf8"):
        whole = archive((b"a/data.pkl", PROTO + body + b"."), (b"a/byteorder", b"little"), (b"a/data/0", bytes(12)),
                        (b"a/data/1", bytes(8)))
        put("zip", name, whole)
        put("lightning", name, whole)
put("zip", "name_given_twice", archive((b"a/data.pkl", PROTO + b"N."), (b"a/data.pkl", PROTO + b"N.")))
put("zip", "no_pickle", archive((b"a/model.weights.h5", b"x")))
put("zip", "end_alone", b"PK\3\4PK\5\6" + bytes(18))

MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def legacy(body, keys, storages, little=b"\x88"):
    data = b"".join(struct.pack("<q", count) + raw for count, raw in storages)
    return (PROTO + MAGIC + b"." + PROTO + integer(1001) + b"." + PROTO + dct(text("little_endian"), little) + b"." +
            PROTO + body + b"." + PROTO + b"](" + b"".join(map(text, keys)) + b"e." + data)


put("legacy", "weights", legacy(weights, ["0", "1"], [(6, bytes(12)), (1, bytes(8))]))
put("legacy", "key_given_twice", legacy(weights, ["0", "0", "1"], [(6, bytes(12)), (0, b""), (1, bytes(8))]))
put("legacy", "count_overflow", legacy(weights, ["0", "1"], [(2**62, bytes(12))]))
put("legacy", "big_endian", legacy(weights, ["0"], [(6, bytes(12))], b"\x89"))
label_map = tensor(b"HalfStorage", "0", 40, 0, (2, 5, 2, 2), (20, 4, 2, 1))
for name, shape, strides in (("map", (2, 5, 2, 2), (20, 4, 2, 1)), ("no_side", (2, 5, 0, 2), (20, 4, 2, 1)),
                             ("huge_side", (2, 5, 1, 2**40), (0, 0, 0, 0))):
    put("label_map", name, archive((b"a/data.pkl", PROTO + tensor(b"HalfStorage", "0", 40, 0, shape, strides) + b"."),
                                   (b"a/data/0", bytes(80))))

# pictures


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def reserved_distance(size):
    """A zlib stream of `size` bytes: zeros, then the rest from the distance of code 30, which Deflate reserves."""
    huffman = "00110000" * (size - 3) + "0000001" + "11110" + "0000000"  # fixed codes: 0, a length of 3, code 30, the end
    bits = "1" + "10" + huffman  # the last block, of fixed codes: its number's lowest bit comes first
    packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    return b"\x78\x9c" + packed + struct.pack(">I", zlib.adler32(bytes(size)))


def png(width=4, height=3, depth=8, colour=2, interlace=0, rows=None, extra=b"", end=True, packed=None):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    raw = rows if rows is not None else (b"\0" + bytes((width * channels * depth + 7) // 8)) * height
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", packed or zlib.compress(raw))
    return out + (chunk(b"IEND", b"") if end else b"")


def segment(code, data):
    return b"\xff" + bytes((code,)) + struct.pack(">H", len(data) + 2) + data


def jpeg(quantisation=True, direct=True, alternating=True, scans=1, frame=0xC0, tables=0, components=1):
    code = b"\1" + bytes(15) + b"\0"
    ids = range(1, components + 1)
    out = b"\xff\xd8"
    if quantisation:
        out += segment(0xDB, b"\0" + b"\1" * 64)
    if direct:
        out += segment(0xC4, b"\0" + code)
    if alternating:
        out += segment(0xC4, b"\x10" + code)
    out += segment(frame, b"\x08\0\x08\0\x08" + bytes((components,)) + b"".join(bytes((i, 0x11, 0)) for i in ids))
    scan = bytes((components,)) + b"".join(bytes((i, tables)) for i in ids) + b"\0\x3f\0"
    return out + (segment(0xDA, scan) + bytes(8)) * scans + b"\xff\xd9"


for target in ("png", "stb_png"):
    for colour, depths in ((0, (1, 8, 16)), (2, (8, 16)), (4, (8,)), (6, (8, 16))):
        for depth in depths:
            put(target, f"colour_{colour}_{depth}", png(depth=depth, colour=colour))
    put(target, "palette", png(depth=2, colour=3, extra=chunk(b"PLTE", bytes(12)) + chunk(b"tRNS", bytes(2))))
    put(target, "palette_missing", png(depth=8, colour=3))
    put(target, "interlaced", png(1, 1, interlace=1))
    put(target, "announces_a_gigabyte", png()[:33] + b"TIDATIDAT")
    put(target, "unpacks_to_more", png(rows=bytes(200_000)))
    put(target, "unpacks_to_less", png(rows=bytes(3)))
    put(target, "repeats_from_nowhere", png(packed=reserved_distance(39)))
    put(target, "no_end", png(end=False))
    put(target, "apple", png(extra=chunk(b"CgBI", bytes(4))))
    put(target, "depth_zero", png(depth=0, rows=b""))
for target in ("jpeg", "stb_jpeg"):
    put(target, "tiny", jpeg())
    put(target, "three_components", jpeg(components=3))
    put(target, "progressive", jpeg(frame=0xC2))
    put(target, "no_quantisation_table", jpeg(quantisation=False))
    put(target, "no_direct_table", jpeg(direct=False))
    put(target, "no_alternating_table", jpeg(alternating=False))
    put(target, "table_out_of_range", jpeg(tables=0x44))
    put(target, "thirty_scans", jpeg(scans=30, frame=0xC2))
    put(target, "scan_first", b"\xff\xd8" + segment(0xDA, b"\1\1\0\0\x3f\0") + b"\xff\xd9")
    put(target, "too_many_codes", b"\xff\xd8" + segment(0xC4, b"\0" + b"\xff" * 16) + b"\xff\xd9")

for target, front in (("jpeg_part", b"\x40\x40\x80\x80"), ("jpeg_restarts", b"")):
    put(target, "tiny", front + jpeg())
    put(target, "three_components", front + jpeg(components=3))
    put(target, "progressive", front + jpeg(frame=0xC2))
    put(target, "no_direct_table", front + jpeg(direct=False))
    put(target, "thirty_scans", front + jpeg(scans=30, frame=0xC2))
    put(target, "no_end", front + jpeg()[:-2])
    put(target, "ends_early", front + jpeg()[:-8] + b"\xff\xd9")

# packed sets: two pictures in two classes, one of them with a label map. The target puts the checksums right.


def record(offset=16, size=5, crc=0, height=1, width=1, maps=0, shard=0, text_end=0, form=0, reserved=0):
    return struct.pack("<QIIIIIIIIQB15x", offset, size, crc, height, width, maps, 0, 5, shard, text_end, form)[:-1] + bytes((reserved,))


def pack_index(names=(b"a", b"b", b"x.png", b"y.png"), records=None, text=None, classes=2, count=2, version=1, table=48, size=240):
    text = b"".join(names) if text is None else text
    if records is None:
        records = record(text_end=7, maps=9) + record(offset=40, text_end=12)
    body = struct.pack("<QQQQ", 0, 1, 1, 2) + struct.pack("<QQQII", size, 0, table, 0, 0) + records + text
    return b"dm2index" + struct.pack("<IIQIIIIQQQ", version, classes, count, 1, 0, 0, 1, 7, len(text), 128 + len(body)) + bytes(64) + body


put("pack_index", "two_pictures", pack_index())
put("pack_index", "other_version", pack_index(version=2))
put("pack_index", "many_records", pack_index(count=2**64 - 1))
put("pack_index", "many_classes", pack_index(classes=2**24))
put("pack_index", "name_leaves", pack_index(names=(b"a", b"b", b"../.p", b"y.png")))
put("pack_index", "same_classes", pack_index(names=(b"a", b"a", b"x.png", b"y.png")))
put("pack_index", "record_leaves", pack_index(records=record(text_end=7, size=2**30) + record(offset=40, text_end=12)))
put("pack_index", "offset_wraps", pack_index(records=record(text_end=7, offset=2**64 - 8) + record(text_end=12)))
put("pack_index", "text_backwards", pack_index(records=record(text_end=2**63, maps=9) + record(offset=40, text_end=12)))
put("pack_index", "table_wraps", pack_index(table=2**64 - 8))


def pack_shard(table=48, count=2, body=bytes(32)):
    tail = b"dm2shend" + struct.pack("<IIQQQQQII", 1, 0, 7, 0, count, table, 0, 0, 0)
    return b"dm2shard" + struct.pack("<II", 1, 0) + body + record(maps=9) + record(offset=40) + tail


put("pack_shard", "two_pictures", pack_shard())
put("pack_shard", "many_records", pack_shard(count=2**60))
put("pack_shard", "table_wraps", pack_shard(table=2**64 - 8))
put("pack_shard", "short", pack_shard(body=bytes(8)))

put("pack_map", "halves", struct.pack("<HHBBH", 1, 2, 2, 1, 0) + bytes(10 * 2 + 10))
put("pack_map", "floats", struct.pack("<HHBBH", 2, 1, 4, 4, 0) + bytes(10 * 4 + 10 * 4))
put("pack_map", "not_finite", struct.pack("<HHBBH", 1, 1, 2, 1, 0) + b"\0\x7c" * 5 + bytes(5))
put("pack_map", "huge", struct.pack("<HHBBH", 512, 512, 4, 4, 0))

# text

for name, data in {"plain": b"cat\ndog\n", "imagenet": b"n01440764 tench\nn01443537\tgoldfish\n", "mark": b"\xef\xbb\xbfa\r\nb\r\n",
                   "empty_line": b"a\n\nb\n", "not_utf8": b"a\xff\n", "controls": b"a\x1b[2J\n", "html": b"<!DOCTYPE html>"}.items():
    put("class_list", name, data)
for name, data in {"log": b"step,loss\n1,0.5\n2,\n3,nan\n4,1e999\n", "cut_off": b"step,loss\n1,0.5\n2", "no_header": b"\n1,2\n",
                   "uneven": b"a,b\n1\n", "quotes": b'"a" , "b"\n 1 , "2"\n', "huge_step": b"step,loss\n99999999999999999999,1\n"}.items():
    put("csv", name, data)
for name, data in {"config": b'{"depth":2,"image":[16,16],"attn_layers":[1],"variant":"published","eps":1e-5}',
                   "hyper": b'{"img_size":224,"patch_size":[16,16],"ssm_cfg":{"expand":2},"attn_cfg":null}',
                   "huge": b'{"depth":1e300,"eps":1e999}', "big": b'{"depth":18446744073709551615}', "layers": b'{"attn_layers":[64,-1]}',
                   "deep": b"[" * 70 + b"]" * 70, "object_for_a_number": b'{"eps":{},"image":{"0":1,"1":2}}', "nul": b"{}\0{"}.items():
    put("json", name, data)

# configurations: a file's tensors in lines, as configurations.cpp takes them


def network(image=(16, 16), patch=8, stem=4, dim=8, classes=3, mlp=0, layers="ma", headdim=4, state=2, width=8):
    """The lines of a network: `layers` has an m for a mixer and an a for an attention layer."""
    out, tokens = [f"cls_token 1 1 {dim}"], image[0] * image[1] // patch**2
    out += [f"pos_embed 1 {tokens + 1} {dim}", f"patch_embed.conv1.weight {stem} 3 7 7"]
    for i in (1, 2, 3):
        out += [f"patch_embed.conv{i}.weight {stem} {stem} 3 3"] if i > 1 else []
        out += [f"patch_embed.bn{i}.{part} {stem}" for part in ("weight", "bias", "running_mean", "running_var")]
        out += [f"patch_embed.bn{i}.num_batches_tracked"]
    out += [f"patch_embed.proj.weight {dim} {stem} {patch // 2} {patch // 2}", f"patch_embed.proj.bias {dim}"]
    for head in ("head", "aux_head"):
        out += [f"{head}.weight {classes} {dim}", f"{head}.bias {classes}"]
    for i, kind in enumerate(layers):
        front, inner = f"layers.{i}.", 2 * dim
        out += [f"{front}norm.weight {dim}"]
        if kind == "a":
            out += [f"{front}mixer.in_proj.weight {3 * width} {dim}", f"{front}mixer.in_proj.bias {3 * width}"]
            out += [f"{front}mixer.conv1d.weight {3 * width} 1 4", f"{front}mixer.conv1d.bias {3 * width}"]
            out += [f"{front}mixer.out_proj.weight {dim} {width}", f"{front}mixer.out_proj.bias {dim}"]
        if kind == "m":
            out += [f"{front}mixer.{name} {inner // headdim}" for name in ("dt_bias", "dt_bias_b", "A_log", "A_log_b", "D", "D_b")]
        for end in ("", "_b") if kind == "m" else ():
            out += [f"{front}mixer.conv1d{end}.weight {inner + 2 * state} 1 4", f"{front}mixer.conv1d{end}.bias {inner + 2 * state}"]
            out += [f"{front}mixer.norm{end}.weight {inner}", f"{front}mixer.out_proj{end}.weight {dim} {inner}"]
        out += [f"{front}mixer.in_proj.weight {2 * inner + 2 * state + inner // headdim} {dim}"] if kind == "m" else []
        if mlp:
            out += [f"{front}norm2.weight {dim}", f"{front}mlp.fc1.weight {2 * mlp} {dim}", f"{front}mlp.fc2.weight {dim} {mlp}"]
    return out + [f"norm_f.weight {dim}"]


told = '=config {"image":[16,16],"patch":8,"dim":8,"classes":3,"headdim":4,"d_state":2,"attn_layers":[1],"depth":2,"eps":1e-5}'
for name, lines in {
        "shapes": network(), "bidirectional": [told.replace("}", ',"variant":"bidirectional"}')] + network(), "with_mlp": network(mlp=16), "attention_alone": network(layers="aa"),
        "mixers_alone": network(layers="mm"), "told": [told] + network(), "said": ["?image [8, 32]", "?groups 2", "?eps 1e-6"] + network(),
        "no_square": network(image=(8, 24)), "no_square_said": ["?image [24, 8]"] + network(image=(8, 24)),
        "contradicts": [told.replace('"classes":3', '"classes":4')] + network(), "said_of_another_type": ['?dim "wide"'] + network(),
        "prefix": ["module.model." + line for line in network()], "layer_64": network() + ["layers.64.norm.weight 8"],
        "huge": [line.replace(" 3 8", f" {2**31 - 1} 8") for line in network()], "no_layers": network(layers=""),
        "no_head": [line for line in network() if "head" not in line], "not_utf8": ["=config \udcff"] + network()}.items():
    put("config", name, "\n".join(lines).encode("utf-8", "surrogateescape"))
for name, data in {"some": b'base = "quick"\ndepth = 12\nattn_layers = [5, 10]\nimage = [32, 48]\neps = 1e-6\n', "table": b"[a]\ndim = 8\n",
                   "twice": b"dim = 8\ndim = 9\n", "no_layers": b"attn_layers = []\nimage = 32 # square\n", "cut_off": b"attn_layers = [5,",
                   "quotes": b'variant = "bidirectional"\n\'dim\' = 8\n', "base_not_utf8": b'base = "\xff"\n', "field_not_utf8": b"\xff = 1\n",
                   "number_not_utf8": b'dim = "\xff"\n', "many_lines": b'"""\n' * 9, "dots": b"a.b.c = 1\n",
                   "behind_a_quote": b'base = "quick"\xef\xbb\xbfp = 1\n'}.items():
    put("model_toml", name, data)
for name, data in {"some": b'{"base":"small","depth":12,"attn_layers":[5,10],"image":32,"variant":"published"}', "list": b"[1]",
                   "deep": b'{"attn_layers":' + b"[" * 60 + b"]" * 60 + b"}", "unknown": b'{"dimension":8}', "base": b'{"base":{}}',
                   "big": b'{"dim":1e300,"image":1.5}'}.items():
    put("model_json", name, data)

# large: the frame's number, and what is repeated

for name, data in {"shared_dict": b"\0\x8c\3\xfe\xfe\xfeh\1", "shared_text": b"\1h\1", "shared_keys": b"\2\x8c\3\xfe\xfe\xfeh\1", "list": b"\3h\1",
                   "marks": b"\4(", "lists": b"\4]", "globals": b"\4ca\nb\n", "entries": b'\5"\xfe\xfe\xfe\xfe":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
                   "nested_header": b"\5{\"a\":", "metadata": b"\6[", "deep": b"\7[", "deep_json": b"\x08[", "flat_json": b"\x09[0,",
                   "names": b"\x0a\xfe\xfe\xfe\n", "rows": b"\x0b1,2\n", "columns": b"\x0c,", "zip": b"\x0dPK\1\2", "chunks": b"\x0e\0\0\0\0tEXt\0\0\0\0",
                   "scans": b"\x0f\xff\xda\0\x08\1\1\0\0\x3f\0"}.items():
    put("large", name, data)
