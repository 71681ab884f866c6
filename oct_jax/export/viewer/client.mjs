// Requests to the worker and their answers.

export class Client {
  constructor(worker) {
    this.worker = worker;
    this.pending = new Map();
    this.next = 1;
    worker.onmessage = ({ data }) => this.receive(data);
  }

  /** Resolves to the result; rejects with { code, details } where the worker refuses. */
  request(action, content, { onPart = () => {}, transfer = [] } = {}) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, onPart });
      this.worker.postMessage({ id, action, ...content }, transfer);
    });
  }

  receive({ id, part, result, refusal }) {
    const { resolve, reject, onPart } = this.pending.get(id);
    if (part) {
      onPart(part);
      return;
    }
    this.pending.delete(id);
    if (refusal) reject(refusal);
    else resolve(result);
  }
}
