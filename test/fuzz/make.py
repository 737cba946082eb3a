# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes what the fuzz targets start from:

    python test/fuzz/make.py dictionaries          # test/fuzz/*.dict
    python test/fuzz/make.py seeds FOLDER          # seeds from all models and IR tests
    python test/fuzz/make.py corpus FOLDER...      # test/fuzz/corpus, minimised from itself and
                                                   # FOLDER/TARGET, FOLDER/TARGET/corpus
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import onnx
import onnx.defs

FUZZ = pathlib.Path(__file__).resolve().parent
ROOT = FUZZ.parent.parent
sys.path.insert(0, str(FUZZ.parent))

from harness import FIXTURES, MODELS  # noqa: E402

READER, RAISE, PARSER = "model-reader-fuzzer", "raise-moe-fuzzer", "moe-parser-fuzzer"
TARGETS = {READER: "onnx.dict", RAISE: "onnx.dict", PARSER: "moe.dict"}

# Longer seeds, of whole language models, would be mutated too slowly.
SEED_BYTES = 32768
# Inputs of the kept corpus are at most this long: they are mutated quickly.
KEPT_BYTES = {READER: 4096, RAISE: 6144, PARSER: 4096}


# --- dictionaries -------------------------------------------------------------------


def _words(pattern, *folders):
    words = set()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".td", ".h", ".cpp"):
                words.update(re.findall(pattern, path.read_text()))
    return words


def _write_dictionary(name, words):
    lines = ["# Made by make.py."]
    for word in sorted(words):
        escaped = "".join(c if c.isprintable() and c not in '"\\' and ord(c) < 128 else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in word)
        lines.append(f'"{escaped}"')
    (FUZZ / name).write_text("\n".join(lines) + "\n")


def _onnx_words():
    """Operators and attributes that our sources name, and external data's keys."""
    known = {"MoE", "QMoE", "location", "offset", "length", "weights.bin", "link.bin", "out/weights.bin", "outside.bin", "..", "com.microsoft", "ai.onnx"}
    for schema in onnx.defs.get_all_schemas_with_history():
        known.add(schema.name)
        known.update(schema.attributes)
    quoted = _words(r'"(?:com\.microsoft\.)?(\w[\w.]*)"', "lib/Dialect/ONNX", "lib/Frontend", "lib/Conversion/RaiseMoE")
    return (known & quoted) | {word for word in known if "." in word}


def _moe_words():
    """Mnemonics, enumerators and keywords of the two dialects."""
    folders = ["include/moec/Dialect/MoE/IR", "include/moec/Dialect/ONNX/IR"]
    words = {f"#moe.{word}<" for word in _words(r'MoE_\w+<"\w+", "(\w+)"', folders[0])}
    words |= {f"moe.{word}" for word in _words(r'MoE_(?:Pure)?Op<"(\w+)"', *folders)}
    words |= _words(r'I32EnumAttrCase<"\w+", \d+, "(\w+)">', *folders)
    words |= {f"{word}(" for word in _words(r"`(\w+)` `\(`", *folders)}
    words |= {f"{word} = " for word in _words(r"\$(\w+)", *folders)}
    words |= {"onnx.node", "onnx.yield", "!onnx.unknown", "!moe.routing<experts = 4, k = 2>", ", weighted", "func.func @", "return", "tensor<*x", "tensor<?x", "dense<", "array<i64: ", "array<i32: ", "xf32>", "xbf16>", "xui8>", "-9223372036854775808", "9223372036854775807", "0x7FC00000"}
    return words


def make_dictionaries():
    _write_dictionary("onnx.dict", _onnx_words())
    _write_dictionary("moe.dict", _moe_words())


# --- seeds --------------------------------------------------------------------------


def _tensors(message):
    """All tensors in a message."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "add") else [value]:
                yield from _tensors(inner)


def _slim(model):
    """Large tensors are read from weights.bin, which the targets provide."""
    for tensor in list(_tensors(model)):
        data = tensor.SerializeToString()
        if len(data) < 256 or tensor.data_type == onnx.TensorProto.STRING:
            continue
        kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=onnx.TensorProto.EXTERNAL)
        kept.external_data.add(key="location", value="weights.bin")
        tensor.CopyFrom(kept)
    return model


_ATTRIBUTE_VALUES = {"INT": 1, "INTS": [0, 1], "FLOAT": 0.5, "FLOATS": [0.5], "STRING": "constant", "STRINGS": ["a"]}


def _operator_model(schema, elements, constants):
    """One node with as many inputs as it takes, at most four: tensors [2, 3], or but for
    the first, constants of one element. Most are not valid; their mutations may be."""
    count = max(1, min(schema.max_input, 4))
    inputs, initializers = [], []
    for i in range(count):
        if constants and i:
            initializers.append(onnx.helper.make_tensor(f"i{i}", onnx.TensorProto.INT64, [1], [1]))
        else:
            inputs.append(onnx.helper.make_tensor_value_info(f"i{i}", elements, ["n", 3]))
    outputs = [f"o{i}" for i in range(max(1, schema.min_output))]
    attributes = {name: _ATTRIBUTE_VALUES.get(attribute.type.name) for name, attribute in schema.attributes.items()}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    node = onnx.helper.make_node(schema.name, [f"i{i}" for i in range(count)], outputs, **attributes)
    results = [onnx.helper.make_tensor_value_info(name, 0, None) for name in outputs]
    graph = onnx.helper.make_graph([node], "g", inputs, results, initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def _operator_models():
    """(name, model) of each standard operator that our sources name."""
    words = _onnx_words()
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "" and schema.name in words:
            for elements in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64):
                for constants in (False, True):
                    yield f"{schema.name}-{elements}-{int(constants)}", _operator_model(schema, elements, constants)


def _model_paths():
    return sorted(MODELS.rglob("*.onnx")) or sorted(FIXTURES.rglob("*.onnx"))


def make_seeds(folder):
    for target in TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
    for path in _model_paths():
        name = path.parent.name if path.stem == "model" else path.stem
        data = _slim(onnx.load(path, load_external_data=False)).SerializeToString()
        for target in (READER, RAISE) if len(data) <= SEED_BYTES else ():
            (folder / target / name).write_bytes(data)
    for name, model in _operator_models():
        (folder / RAISE / name).write_bytes(model.SerializeToString())
    for path in sorted((ROOT / "test" / "Dialect").rglob("*.mlir")) + sorted((ROOT / "test" / "Conversion" / "RaiseMoE").glob("*.mlir")):
        for number, part in enumerate(re.split(r"^// -----.*$", path.read_text(), flags=re.M)):
            text = re.sub(r"^\s*//.*\n", "", part, flags=re.M).strip()
            if text:
                (folder / PARSER / f"{path.stem}-{number}").write_text(text + "\n")


# --- the kept corpus ----------------------------------------------------------------


def make_corpus(folders):
    """The smallest set of the small inputs that covers what all of them cover."""
    for target in TARGETS:
        kept = FUZZ / "corpus" / target
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            (scratch / "from").mkdir()
            (scratch / "to").mkdir()
            sources = [kept, *(folder / target for folder in folders), *(folder / target / "corpus" for folder in folders)]
            for path in (path for source in sources for path in source.glob("*")):
                if path.is_file() and path.stat().st_size <= KEPT_BYTES[target]:
                    shutil.copyfile(path, scratch / "from" / path.name)
            subprocess.run(
                [ROOT / "build-fuzz" / "bin" / target, "-merge=1", "-use_counters=0", f"-max_len={KEPT_BYTES[target]}", scratch / "to", scratch / "from"],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(scratch / "to", kept)
        files = list(kept.iterdir())
        print(f"{target}: {len(files)} inputs, {sum(path.stat().st_size for path in files)} bytes")


def main(command, *folders):
    folders = [pathlib.Path(folder) for folder in folders]
    if command == "dictionaries":
        make_dictionaries()
    elif command == "seeds":
        make_seeds(*folders)
    elif command == "corpus":
        make_corpus(folders)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
