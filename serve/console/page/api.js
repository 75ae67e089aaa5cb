// Requests to the endpoint that served this page; credentials of HTTP Basic travel by themselves.

/** An answer that is not 2xx, or none at all (status 0). */
export class Refusal extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Return the JSON of an answer; throw Refusal otherwise. */
export async function ask(path, body = undefined, signal = undefined) {
  const request = { signal, cache: "no-store", credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    request.method = "POST";
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the endpoint does not answer", null);
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok && found !== null) return found;
  const message = found?.error?.message ?? `status ${answer.status}`;
  throw new Refusal(answer.status, message, Number(answer.headers.get("Retry-After")) || null);
}

const LONGEST_WAIT_S = 60;

/** Asks again and again while the page is looked at, ever more rarely while there is no answer. */
export class Poll {
  /**
   * @param {() => string} path where to ask now
   * @param {number} everyS seconds from an answer to the next question
   * @param {(answer: object) => void} answered
   * @param {(refusal: Refusal, waitS: number) => void} refused
   */
  constructor(path, everyS, answered, refused) {
    Object.assign(this, { path, everyS, answered, refused, failures: 0, timer: null, running: false });
    document.addEventListener("visibilitychange", () => this.now());
    window.addEventListener("online", () => this.now());
  }

  /** Ask at once, unless a question is on its way or nobody looks. */
  async now() {
    clearTimeout(this.timer);
    if (this.running || document.hidden) return;
    this.running = true;
    let waitS = this.everyS;
    try {
      const answer = await ask(this.path(), undefined, AbortSignal.timeout(20_000));
      this.failures = 0;
      this.answered(answer);
    } catch (error) {
      const refusal = error instanceof Refusal ? error : new Refusal(0, error.message, null);
      this.failures += 1;
      // Half of the wait is drawn, so that many open pages do not come back at the same moment.
      const doubled = Math.min(this.everyS * 2 ** this.failures, LONGEST_WAIT_S);
      waitS = Math.max(refusal.retryAfter ?? 0, doubled * (0.5 + Math.random() / 2));
      this.refused(refusal, waitS);
    } finally {
      this.running = false;
      this.timer = setTimeout(() => this.now(), 1000 * waitS);
    }
  }
}
