// From logits to a referral: oct_jax.decision, with the numbers of the bundle's `decision`.

export const URGENCY = ["urgent", "defer", "unreadable", "routine", "observe", "none"];

/** Probabilities of logits divided by a temperature, in double precision. */
export function softmax(logits, temperature) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const top = Math.max(...scaled);
  const powers = scaled.map((value) => Math.exp(value - top));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/**
 * What the rule says of one scan.
 *
 * @param {number[]} probabilities in the order of the labels.
 * @param {number | null} outlierScore above 1 is unlike the training scans; null without a score.
 * @param {{labels: string[], decision: object}} about of the bundle.
 * @returns {object} label, set (names), outlier, referral, reason (a key of strings.mjs).
 */
export function decide(probabilities, outlierScore, { labels, decision }) {
  const tierOf = (name) => decision.tiers[name];
  const label = labels[probabilities.indexOf(Math.max(...probabilities))];
  const refers = labels.some(tierOf);
  const answer = { label, probabilities, outlierScore, outlier: false, set: null };
  if (!decision.calibrated) {
    const referral = refers ? tierOf(label) || "defer" : "none";
    return { ...answer, referral, reason: refers ? "uncalibrated" : "notReferred", urgent: false };
  }
  answer.set = labels.filter((_, c) => probabilities[c] >= decision.set_thresholds[c]);
  answer.outlier = outlierScore !== null && outlierScore > 1;
  answer.urgent = urgency(probabilities, { labels, decision }) >= decision.urgent_threshold;
  if (!refers) return { ...answer, referral: "none", reason: "notReferred" };
  const tiers = new Set(answer.set.map(tierOf));
  if (answer.urgent) tiers.add("urgent");
  return { ...answer, ...refer(answer, tiers, decision.no_retina_threshold) };
}

function refer({ set, outlier, outlierScore }, tiers, noRetina) {
  if (outlier && noRetina && outlierScore > noRetina) return { referral: "defer", reason: "noRetina" };
  if (outlier) return { referral: "defer", reason: "outlier" };
  if (!set.length) return { referral: "defer", reason: "emptySet" };
  if (tiers.size > 1) return { referral: "defer", reason: "severalTiers" };
  const [tier] = tiers;
  if (!tier) return { referral: "defer", reason: "noTier" };
  return { referral: tier, reason: tier };
}

/** Probability of the urgent classes together. */
export function urgency(probabilities, { labels, decision }) {
  return labels
    .map((name, c) => (decision.tiers[name] === "urgent" ? probabilities[c] : 0))
    .reduce((sum, share) => sum + share, 0);
}
