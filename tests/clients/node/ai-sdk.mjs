// The AI SDK, with the provider that PROVIDER names.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, stepCountIs, streamText, tool as made } from "ai";

import {
  base, byCall, description, drive, greeting, key, model, parameters, person, refusal, snow, story, tool,
  weather,
} from "./drive.mjs";

const providers = {
  "openai": (apiKey) => createOpenAI({ baseURL: `${base}/v1`, apiKey }),
  "openai-chat": (apiKey) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).chat,
  "openai-compatible": (apiKey) =>
    createOpenAICompatible({
      name: "worker",
      baseURL: `${base}/v1`,
      apiKey,
      includeUsage: true,
      supportsStructuredOutputs: true,
    }),
  "anthropic": (apiKey) => createAnthropic({ baseURL: `${base}/v1`, apiKey }),
};
const provider = providers[process.env.PROVIDER];
const chat = { model: provider(key)(model), maxRetries: 0 };

const calls = [];
const tools = {
  [tool]: made({
    description: "Of a city",
    inputSchema: jsonSchema(parameters),
    execute: (sent) => (calls.push({ name: tool, arguments: sent }), snow),
  }),
};
const steps = { prompt: weather, tools, stopWhen: stepCountIs(3) };

await drive({
  async text() {
    const answer = await generateText({ ...chat, prompt: greeting });
    return { text: answer.text, usage: answer.usage.totalTokens };
  },

  async stream() {
    const answer = streamText({ ...chat, prompt: greeting });
    let text = "", parts = 0;
    for await (const part of answer.textStream) parts++, (text += part);
    return { text, parts, usage: (await answer.usage).totalTokens };
  },

  async tools() {
    const answer = await generateText({ ...chat, ...steps });
    return { text: answer.text, call: calls.at(-1), steps: answer.steps.length };
  },

  async streamedTools() {
    const answer = streamText({ ...chat, ...steps });
    return { text: await answer.text, call: calls.at(-1), steps: (await answer.steps).length };
  },

  async structured() {
    const output = Output.object({ schema: jsonSchema(person) });
    const prompt = process.env.PROVIDER === "anthropic" ? byCall : description;
    return { value: (await generateText({ ...chat, prompt, output })).output };
  },

  async errors() {
    const ask = (more) => generateText({ ...chat, prompt: "Hi", ...more });
    return {
      wrong: await refusal(() => ask({ topP: 7 })),
      unknown: await refusal(() => ask({ model: provider(key)("nobody") })),
      stranger: await refusal(() => ask({ model: provider("wrong")(model) })),
    };
  },

  async cancel() {
    const abort = new AbortController();
    let cancelled = false;
    const answer = streamText({
      ...chat, prompt: story, abortSignal: abort.signal, onAbort: () => (cancelled = true),
    });
    for await (const part of answer.textStream) {
      if (part) abort.abort();
    }
    return { cancelled };
  },
});
