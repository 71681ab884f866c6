// npx eslint oct_jax/export/viewer

const shared = [
  "Blob URL TextDecoder DataView ImageData OffscreenCanvas Response DecompressionStream",
  "createImageBitmap crypto atob console performance setTimeout clearTimeout self",
];
const page = ["document window Worker ResizeObserver"];

function readonly(lists) {
  const names = lists.join(" ").split(" ");
  return Object.fromEntries(names.map((name) => [name, "readonly"]));
}

export default [
  {
    files: ["**/*.mjs"],
    languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: readonly([...shared, ...page]) },
    rules: {
      "no-undef": "error",
      "no-unused-vars": "error",
      "prefer-const": "error",
      "no-var": "error",
      eqeqeq: "error",
      "no-shadow": "error",
      "max-lines": ["error", 300],
      complexity: ["error", 16],
      "max-len": ["error", 110],
    },
  },
];
