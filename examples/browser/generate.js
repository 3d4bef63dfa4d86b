// A language model of bytes in the browser: what `exlstm export` wrote, run by onnxruntime-web.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
// Threads share memory, which the browser allows on cross-origin isolated pages only. 0: it picks.
ort.env.wasm.numThreads = crossOriginIsolated ? 0 : 1;

/** Loads a model: the graph for whole prompts, the graph for single tokens, what both are about. */
export async function load(folder) {
  const response = await fetch(`${folder}/export.json`);
  if (!response.ok) throw new Error(`there is no model: ${response.url} says ${response.status}`);
  const { tokenizer, end_of_document: endOfDocument } = await response.json();
  if (tokenizer !== "bytes") throw new Error(`this page reads bytes, the model ${tokenizer}`);
  const sequence = await ort.InferenceSession.create(`${folder}/sequence.onnx`);
  const step = await ort.InferenceSession.create(`${folder}/step.onnx`);
  return { sequence, step, endOfDocument };
}

/**
 * Continues a prompt, yielding each token as soon as it is drawn, until the document ends.
 * Temperature 0 takes the most likely token.
 */
export async function* generate(model, prompt, { maxTokens, temperature }) {
  const read = [model.endOfDocument, ...new TextEncoder().encode(prompt)];
  let [logits, memory] = await run(model.sequence, read, emptyMemory(model.sequence));
  for (let count = 0; count < maxTokens; count++) {
    const token = sample(logits, temperature);
    if (token === model.endOfDocument) return;
    yield token;
    [logits, memory] = await run(model.step, [token], memory);
  }
}

/** The logits of the token after the last, and the memory, ready for the next call. */
async function run(session, tokens, memory) {
  const ids = new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
  const { logits, ...after } = await session.run({ tokens: ids, ...memory });
  const kept = Object.entries(after).map(([name, tensor]) => [name.replace("new_", ""), tensor]);
  return [logits.data.subarray(-logits.dims[2]), Object.fromEntries(kept)];
}

/** Zeros, of the shapes that the graph asks for; a size that is open is the batch, here 1. */
function emptyMemory(session) {
  const memory = {};
  for (const { name, shape } of session.inputMetadata) {
    if (name === "tokens") continue;
    const sizes = shape.map((size) => (typeof size === "number" ? size : 1));
    const length = sizes.reduce((product, size) => product * size, 1);
    memory[name] = new ort.Tensor("float32", new Float32Array(length), sizes);
  }
  return memory;
}

function sample(logits, temperature) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  if (temperature === 0) return logits.indexOf(largest);
  const weights = Float64Array.from(logits, (x) => Math.exp((x - largest) / temperature));
  let left = Math.random() * weights.reduce((a, b) => a + b);
  const token = weights.findIndex((weight) => (left -= weight) < 0);
  return token < 0 ? logits.indexOf(largest) : token; // what rounding left over
}
