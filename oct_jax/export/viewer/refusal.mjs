// Why a file is not answered. The words for each code are in strings.mjs.

export class Refusal extends Error {
  constructor(code, details = {}) {
    super(code);
    this.code = code;
    this.details = details;
  }
}
