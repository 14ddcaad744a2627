/* What all pages know: the newest status, who reads, and the time of the daemon. */

export const store = { status: null, stamp: 0, me: null };

/** Seconds, by the clock of the daemon. */
export const now = () => (store.status ? store.status.now + (performance.now() - store.stamp) / 1000 : Date.now() / 1000);
