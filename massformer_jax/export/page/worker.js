/* Runs the program of this folder with onnxruntime-web, beside the page, which stays usable. */

// Where onnxruntime-web's files are: beside this one, or a copy of them at any other address.
const RUNTIME = new URL("./", self.location.href).href;

let answer = null; // from a photograph to its labels

/* Returns a file of this folder, and tells how much of it is there. */
async function read(name) {
  const found = await fetch(name);
  if (!found.ok) throw new Error(`${name} could not be loaded: ${found.status}`);
  const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
  const total = Number(found.headers.get("Content-Length"));
  const pieces = [];
  let bytes = 0;
  for (const reader = found.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    bytes += value.length;
    const of = total ? ` of ${megabytes(total)}` : "";
    self.postMessage({ loading: `Loading ${name}: ${megabytes(bytes)}${of} MB` });
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

async function load() {
  let ort;
  try {
    ort = await import(`${RUNTIME}ort.wasm.bundle.min.mjs`);
  } catch {
    throw new Error("onnxruntime-web's ort.wasm.bundle.min.mjs is not beside this page.");
  }
  ort.env.wasm.wasmPaths = { wasm: `${RUNTIME}ort-wasm-simd-threaded.wasm` };
  const facts = JSON.parse(new TextDecoder().decode(await read("export.json")));
  const program = await read(facts.program.file);
  self.postMessage({ loading: "Opening the network" });
  const session = await ort.InferenceSession.create(program, {
    executionProviders: ["wasm"],
    // Plans of memory for one size are no use for another, and double what is taken.
    enableMemPattern: false,
  });
  answer = async ({ pixels, height, width }) => {
    const [rows, columns] = facts.input.size
      ?? [height, width].map((side) => side + (facts.stride - side % facts.stride) % facts.stride);
    const padded = pad(pixels, height, width, rows, columns);
    const input = new ort.Tensor("uint8", padded, [1, rows, columns, 3]);
    const begin = performance.now();
    const { labels } = await session.run({ images: input });
    const seconds = (performance.now() - begin) / 1000;
    const cropped = new Uint8Array(height * width);
    for (let y = 0; y < height; y++) {
      cropped.set(labels.data.subarray(y * columns, y * columns + width), y * width);
    }
    return { labels: cropped, height, width, seconds };
  };
  self.postMessage({ facts });
}

/* Returns red, green and blue without opacity, the last row and column repeated. */
function pad(pixels, height, width, rows, columns) {
  const padded = new Uint8Array(rows * columns * 3);
  for (let y = 0, to = 0; y < rows; y++) {
    const row = Math.min(y, height - 1) * width;
    for (let x = 0; x < columns; x++) {
      const from = 4 * (row + Math.min(x, width - 1));
      padded[to++] = pixels[from];
      padded[to++] = pixels[from + 1];
      padded[to++] = pixels[from + 2];
    }
  }
  return padded;
}

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ turn: data.turn, ...await answer(data) });
  } catch (error) {
    self.postMessage({ turn: data.turn, error: `No mask: ${error.message ?? error}` });
  }
};

load().catch((error) => self.postMessage({ error: error.message ?? String(error) }));
