// Stored numbers: float16, compressed. For the tab, and for the page that stands alone.

/** Every float16, by its bits. */
export const HALVES = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  HALVES[bits] = sign * (exponent === 0 ? fraction * 2 ** -24
    : exponent === 31 ? (fraction ? NaN : Infinity) : (1024 + fraction) * 2 ** (exponent - 25));
}

/** The bits of the float16 numbers in compressed bytes; they are little-endian, like the machine. */
export async function halfBits(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint16Array(await new Response(stream).arrayBuffer());
}
